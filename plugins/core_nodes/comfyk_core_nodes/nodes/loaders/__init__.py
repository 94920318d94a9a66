"""Nodes that load models from files."""
