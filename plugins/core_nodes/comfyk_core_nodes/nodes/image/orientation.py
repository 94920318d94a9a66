"""The choices of nodes that turn or mirror, and what they mean."""

ROTATIONS = {"none": 0, "90 degrees": 1, "180 degrees": 2, "270 degrees": 3}
"""Quarter turns clockwise."""

FLIPS = {"x-axis: vertically": -2, "y-axis: horizontally": -1}
"""The dimension, of `[..., H, W]`, that is turned round."""
