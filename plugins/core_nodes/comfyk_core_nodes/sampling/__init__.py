"""From noise to a latent: what a model predicts, which noise levels it walks through, how, and with what guidance.

| module | holds |
|---|---|
| `names` | the samplers' and schedulers' names, readable without torch |
| `prediction`, `model_sampling` | what the network's output means, and its noise levels |
| `schedules`, `noise_tables` | the sigmas of a run |
| `samplers` | one flat function each, by family |
| `conditioning`, `conds` | what a run is conditioned on: as nodes pass it, and as the model takes it |
| `guidance`, `cond_batch`, `regions`, `prepare` | conditionings and classifier-free guidance |
| `two_models`, `rescale`, `override`, `differential` | what nodes may have in place of it, or of a mask |
| `noise`, `brownian`, `inpaint`, `preview` | where noise comes from, masks, pictures of work under way |
| `run`, `latents` | a whole run: sampler by name, steps, denoise, start and end; the same for latent dicts in a node |
"""
