"""Nodes that load, change and save pictures."""
