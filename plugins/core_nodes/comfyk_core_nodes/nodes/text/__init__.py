"""Nodes that encode prompts."""
