"""Nodes that make and change latents, and those between latents and pictures."""
