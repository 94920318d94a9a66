"""What steers a diffusion model besides the text: ControlNets, control-LoRAs, T2I-Adapters, and GLIGEN's boxes.

`load.load_controlnet` reads any of the first three. What it gives is a `base.ControlBase`, which a conditioning holds
under `control`; at each step the sampler asks it for residuals, `{"input": [...], "middle": [...], "output": [...]}`,
which the UNet adds to its own. `gligen` is apart: it adds attention layers of its own.
"""
