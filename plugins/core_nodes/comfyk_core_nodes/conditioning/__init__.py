"""Conditionings: lists of `[tensor, options]`, as nodes pass them on. Importing this imports no torch.

`edit` has what nodes do to them, `inpaint` what inpainting models are given, `style` what style models add.
"""
