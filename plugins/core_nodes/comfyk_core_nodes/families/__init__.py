"""Families of diffusion models: what their files are told by, and how each is loaded and run. One folder a family.

`built_in` finds them: a new one is a folder with `registrations`. Importing this, and those, imports no torch.
"""
