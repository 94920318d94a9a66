"""Stable Diffusion 1.x, 2.x, SDXL and its refiner, unCLIP, and the x4 upscaler: one UNet in several sizes."""
