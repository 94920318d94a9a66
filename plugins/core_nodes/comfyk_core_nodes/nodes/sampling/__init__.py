"""Nodes that sample, and those that make samplers, guiders and noise levels for them."""
