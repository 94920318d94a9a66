"""The samplers of most workflows: noise, schedule and guidance in one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.nodes.limits import MAX_SEED
from comfyk_core_nodes.nodes.sampling import widgets
from comfyk_core_nodes.sampling.names import SAMPLER_NAMES, SCHEDULER_NAMES

if TYPE_CHECKING:
    from comfyk_core_nodes.memory.patcher import ModelPatcher
    from comfyk_core_nodes.sampling.conditioning import Conditioning
    from comfyk_core_nodes.sampling.latents import Latent


class KSampler(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KSampler",
            display_name="KSampler",
            category="model/sampling",
            description="Denoises a latent: from noise to a picture that follows the prompts.",
            search_aliases=["sampler", "sample", "generate", "denoise", "diffuse", "txt2img", "img2img"],
            v1_form=True,
            inputs=[
                io.Model.Input("model", tooltip="What denoises."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    tooltip="The same seed gives the same picture.",
                ),
                io.Int.Input(
                    "steps",
                    default=20,
                    min=1,
                    max=10000,
                    tooltip="How often the model is asked. More steps are slower and finer.",
                ),
                widgets.cfg(
                    tooltip="How strictly the prompts are followed (classifier-free guidance). 1 leaves the"
                    " negative prompt out, and is twice as fast."
                ),
                io.Combo.Input("sampler_name", options=SAMPLER_NAMES, tooltip="How the steps are taken."),
                io.Combo.Input(
                    "scheduler", options=SCHEDULER_NAMES, tooltip="How much noise is left after each step."
                ),
                io.Conditioning.Input("positive", tooltip="What is to be seen."),
                io.Conditioning.Input("negative", tooltip="What is not to be seen."),
                io.Latent.Input(
                    "latent_image", tooltip="What to start from: an empty latent, or one of a picture."
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the latent is made anew; less than 1 keeps something of a picture.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The denoised latent.")],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Conditioning,
        negative: Conditioning,
        latent_image: Latent,
        denoise: float,
    ) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.latents import sample_latent

        return io.NodeOutput(
            sample_latent(
                model,
                latent_image,
                seed=seed,
                steps=steps,
                cfg=cfg,
                sampler_name=sampler_name,
                scheduler=scheduler,
                positive=positive,
                negative=negative,
                denoise=denoise,
            )
        )


class KSamplerAdvanced(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KSamplerAdvanced",
            display_name="KSampler (Advanced)",
            category="model/sampling",
            description=("Denoises a latent from one step to another, for several models to share the work."),
            v1_form=True,
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input(
                    "add_noise",
                    options=("enable", "disable"),
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
                io.Int.Input("steps", default=20, min=1, max=10000),
                widgets.cfg(),
                io.Combo.Input("sampler_name", options=SAMPLER_NAMES),
                io.Combo.Input("scheduler", options=SCHEDULER_NAMES),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Latent.Input("latent_image"),
                io.Int.Input(
                    "start_at_step",
                    default=0,
                    min=0,
                    max=10000,
                    advanced=True,
                    tooltip="Steps that were taken before.",
                ),
                io.Int.Input(
                    "end_at_step",
                    default=10000,
                    min=0,
                    max=10000,
                    advanced=True,
                    tooltip="The step to stop at.",
                ),
                io.Combo.Input(
                    "return_with_leftover_noise",
                    options=("disable", "enable"),
                    advanced=True,
                    tooltip="On when another sampler goes on.",
                ),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        add_noise: str,
        noise_seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Conditioning,
        negative: Conditioning,
        latent_image: Latent,
        start_at_step: int,
        end_at_step: int,
        return_with_leftover_noise: str,
    ) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.latents import sample_latent

        return io.NodeOutput(
            sample_latent(
                model,
                latent_image,
                seed=noise_seed,
                steps=steps,
                cfg=cfg,
                sampler_name=sampler_name,
                scheduler=scheduler,
                positive=positive,
                negative=negative,
                add_noise=add_noise == "enable",
                start_step=start_at_step,
                last_step=end_at_step,
                force_full_denoise=return_with_leftover_noise == "disable",
            )
        )


NODES = (
    KSampler,
    KSamplerAdvanced,
)
