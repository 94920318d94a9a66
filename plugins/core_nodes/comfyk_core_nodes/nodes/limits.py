"""Limits that the schemas share."""

MAX_RESOLUTION = 16384
"""The longest side of a picture that a node makes, in pixels."""
MAX_SEED = 0xFFFF_FFFF_FFFF_FFFF
