"""Sampling from parts: noise, guider, sampler and sigmas are nodes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.nodes.limits import MAX_SEED
from comfyk_core_nodes.nodes.sampling import widgets

if TYPE_CHECKING:
    from torch import Tensor

    from comfyk_core_nodes.memory.patcher import ModelPatcher
    from comfyk_core_nodes.sampling.conditioning import Conditioning
    from comfyk_core_nodes.sampling.guidance import CFGGuider, Sampler
    from comfyk_core_nodes.sampling.latents import Latent, Noise


class SamplerCustom(io.ComfyNode):
    """Gives the latent where the sigmas end, and as the model sees it denoised after the last step."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerCustom",
            category="model/sampling/custom",
            description="Denoises a latent with a sampler and sigmas of one's choice.",
            inputs=[
                io.Model.Input("model"),
                io.Boolean.Input(
                    "add_noise",
                    default=True,
                    advanced=True,
                    tooltip="Off when the latent comes from a sampler that left noise in it.",
                ),
                io.Int.Input(
                    "noise_seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    tooltip="The same seed gives the same picture.",
                ),
                widgets.cfg(),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Sampler.Input("sampler"),
                io.Sigmas.Input("sigmas"),
                io.Latent.Input("latent_image"),
            ],
            outputs=[
                io.Latent.Output(display_name="output"),
                io.Latent.Output(display_name="denoised_output"),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        add_noise: bool,
        noise_seed: int,
        cfg: float,
        positive: Conditioning,
        negative: Conditioning,
        sampler: Sampler,
        sigmas: Tensor,
        latent_image: Latent,
    ) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.guidance import CFGGuider
        from comfyk_core_nodes.sampling.latents import sample_with
        from comfyk_core_nodes.sampling.noise import EmptyNoise, RandomNoise

        guider = CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        noise = RandomNoise(noise_seed) if add_noise else EmptyNoise()
        return io.NodeOutput(*sample_with(guider, noise, sampler, sigmas, latent_image, seed=noise_seed))


class SamplerCustomAdvanced(io.ComfyNode):
    """Gives the latent where the sigmas end, and as the model sees it denoised after the last step."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerCustomAdvanced",
            category="model/sampling/custom",
            description="Denoises a latent with noise, a guider, a sampler and sigmas of one's choice.",
            inputs=[
                io.Noise.Input("noise"),
                io.Guider.Input("guider"),
                io.Sampler.Input("sampler"),
                io.Sigmas.Input("sigmas"),
                io.Latent.Input("latent_image"),
            ],
            outputs=[
                io.Latent.Output(display_name="output"),
                io.Latent.Output(display_name="denoised_output"),
            ],
        )

    @classmethod
    def execute(
        cls, noise: Noise, guider: CFGGuider, sampler: Sampler, sigmas: Tensor, latent_image: Latent
    ) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.latents import sample_with

        return io.NodeOutput(*sample_with(guider, noise, sampler, sigmas, latent_image))


class RandomNoise(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RandomNoise",
            category="model/sampling/noise",
            description="The noise of a seed.",
            inputs=[
                io.Int.Input(
                    "noise_seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    tooltip="The same seed gives the same picture.",
                )
            ],
            outputs=[io.Noise.Output()],
        )

    @classmethod
    def execute(cls, noise_seed: int) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.noise import RandomNoise as SeededNoise

        return io.NodeOutput(SeededNoise(noise_seed))


class DisableNoise(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DisableNoise",
            category="model/sampling/noise",
            description="No noise, for latents that have some.",
            search_aliases=["zero noise"],
            inputs=[],
            outputs=[io.Noise.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.noise import EmptyNoise

        return io.NodeOutput(EmptyNoise())


class AddNoise(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AddNoise",
            category="model/sampling/noise",
            description=("Puts noise on a latent, as much as there is between the first sigma and the last."),
            is_experimental=True,
            inputs=[
                io.Model.Input("model"),
                io.Noise.Input("noise"),
                io.Sigmas.Input("sigmas"),
                io.Latent.Input("latent_image"),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(
        cls, model: ModelPatcher, noise: Noise, sigmas: Tensor, latent_image: Latent
    ) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.latents import add_noise

        return io.NodeOutput(add_noise(model, noise, sigmas, latent_image))


NODES = (
    SamplerCustom,
    SamplerCustomAdvanced,
    RandomNoise,
    DisableNoise,
    AddNoise,
)
