"""What is done to latents outside of sampling: arithmetic, cutting and joining, batches, files.

A latent is a tensor `[B, C, h, w]`, or `[B, C, T, h, w]` of a video; what nodes pass around is a dict with one as
`samples`, and maybe `noise_mask` (`[B, 1, H, W]`) and `batch_index` (`[B]`, which noise each item gets).
"""
