"""Autoencoders: from pictures to latents and back."""
