"""Samplers of consistency models as objects with their options."""

from __future__ import annotations

from comfyk import io


class SamplerLCM(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_advanced_samplers"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerLCM",
            category="model/sampling/samplers",
            description="Sampling of consistency models, with the noise of each step to one's choice.",
            inputs=[
                io.Float.Input(
                    "s_noise",
                    default=1.0,
                    min=0.0,
                    max=64.0,
                    step=0.01,
                    tooltip="A factor on the noise of the first step.",
                ),
                io.Float.Input(
                    "s_noise_end",
                    default=1.0,
                    min=0.0,
                    max=64.0,
                    step=0.01,
                    tooltip="The factor of the last step; those between are in between.",
                ),
                io.Float.Input(
                    "noise_clip_std",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Noise beyond this many standard deviations is cut off; 0 leaves all.",
                ),
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, s_noise: float, s_noise_end: float, noise_clip_std: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.run import ksampler

        options = {"s_noise": s_noise, "s_noise_end": s_noise_end, "noise_clip_std": noise_clip_std}
        return io.NodeOutput(ksampler("lcm", options))


class SamplerLCMUpscale(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_advanced_samplers"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerLCMUpscale",
            category="model/sampling/samplers",
            description="Sampling of consistency models that enlarges the latent on the way.",
            inputs=[
                io.Float.Input(
                    "scale_ratio",
                    default=1.0,
                    min=0.1,
                    max=20.0,
                    step=0.01,
                    advanced=True,
                    tooltip="How much larger it is in the end.",
                ),
                io.Int.Input(
                    "scale_steps",
                    default=-1,
                    min=-1,
                    max=1000,
                    step=1,
                    advanced=True,
                    tooltip="Over how many steps it grows; -1 is half of them.",
                ),
                io.Combo.Input(
                    "upscale_method", options=("bislerp", "nearest-exact", "bilinear", "area", "bicubic")
                ),
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, scale_ratio: float, scale_steps: int, upscale_method: str) -> io.NodeOutput:
        from functools import partial

        from comfyk_core_nodes.sampling.latents import resize_latent
        from comfyk_core_nodes.sampling.run import KSAMPLER
        from comfyk_core_nodes.sampling.samplers.lcm import sample_lcm_upscale

        options = {
            "total_upscale": scale_ratio,
            "upscale_steps": None if scale_steps < 0 else scale_steps,
            "upscale": partial(resize_latent, method=upscale_method),
        }
        return io.NodeOutput(KSAMPLER(sample_lcm_upscale, options))


NODES = (
    SamplerLCM,
    SamplerLCMUpscale,
)
