"""Nodes that make and change masks."""
