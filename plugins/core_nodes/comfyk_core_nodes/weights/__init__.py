"""Weights: reading files of them, telling what they are, keeping them mapped, and the layers that compute with them."""
