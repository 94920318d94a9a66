"""Nodes that change the noise levels of flow models: how far their times are shifted, how much noise they know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.nodes.limits import MAX_RESOLUTION
from comfyk_core_nodes.nodes.model.noise_levels import with_sampling

if TYPE_CHECKING:
    from comfyk_core_nodes.memory.patcher import ModelPatcher


def _shift(default: float) -> io.Float.Input:
    return io.Float.Input(
        "shift",
        default=default,
        min=0.0,
        max=100.0,
        step=0.01,
        tooltip="Higher ones spend more of the steps where there is much noise.",
    )


def _flow(model: ModelPatcher, shift: float, multiplier: float) -> ModelPatcher:
    """Rectified flow with shifted times; a scale of the noise that the model has stays."""
    from comfyk_core_nodes.sampling import model_sampling, prediction

    before = model.get_model_object("model_sampling")
    sampling = model_sampling.model_sampling(
        model_sampling.ModelSamplingDiscreteFlow, prediction.CONST, model.model.model_config
    )
    sampling.set_parameters(shift=shift, multiplier=multiplier)
    if hasattr(before, "noise_scale"):
        sampling.set_noise_scale(before.noise_scale)
    return with_sampling(model, sampling)


class ModelSamplingSD3(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_model_advanced"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModelSamplingSD3",
            display_name="ModelSamplingSD3",
            category="model/patch/stable diffusion",
            description="The shift of the levels of noise of flow models, such as Stable Diffusion 3.",
            v1_form=True,
            inputs=[
                io.Model.Input("model"),
                _shift(3.0),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, shift: float) -> io.NodeOutput:
        return io.NodeOutput(_flow(model, shift, multiplier=1000))


class ModelSamplingAuraFlow(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_model_advanced"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModelSamplingAuraFlow",
            display_name="ModelSamplingAuraFlow",
            category="model/patch",
            description="The shift of the levels of noise of AuraFlow and its kin.",
            v1_form=True,
            inputs=[
                io.Model.Input("model"),
                _shift(1.73),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, shift: float) -> io.NodeOutput:
        return io.NodeOutput(_flow(model, shift, multiplier=1.0))


class ModelSamplingFlux(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_model_advanced"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModelSamplingFlux",
            display_name="ModelSamplingFlux",
            category="model/patch/flux",
            description="The shift of the levels of noise of Flux, by the size of the picture.",
            v1_form=True,
            inputs=[
                io.Model.Input("model"),
                io.Float.Input(
                    "max_shift",
                    default=1.15,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    advanced=True,
                    tooltip="The shift of a picture of 1024 by 1024 pixels.",
                ),
                io.Float.Input(
                    "base_shift",
                    default=0.5,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    advanced=True,
                    tooltip="The shift of one of 256 by 256 pixels.",
                ),
                io.Int.Input("width", default=1024, min=16, max=MAX_RESOLUTION, step=8),
                io.Int.Input("height", default=1024, min=16, max=MAX_RESOLUTION, step=8),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(
        cls, model: ModelPatcher, max_shift: float, base_shift: float, width: int, height: int
    ) -> io.NodeOutput:
        from comfyk_core_nodes.sampling import model_sampling, prediction

        made = model_sampling.model_sampling(
            model_sampling.ModelSamplingFlux, prediction.CONST, model.model.model_config
        )
        made.set_parameters(model_sampling.flux_shift_for(width, height, max_shift, base_shift))
        return io.NodeOutput(with_sampling(model, made))


class ModelNoiseScale(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_model_advanced"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModelNoiseScale",
            display_name="ModelNoiseScale",
            category="model/patch",
            description="The scale of the noise that a flow model was trained with.",
            v1_form=True,
            inputs=[
                io.Model.Input("model"),
                io.Float.Input(
                    "noise_scale",
                    default=1.0,
                    min=0.0,
                    max=64.0,
                    step=0.01,
                    tooltip="The standard deviation of the noise.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, noise_scale: float) -> io.NodeOutput:
        before = model.get_model_object("model_sampling")
        if not hasattr(before, "set_noise_scale"):
            raise ValueError("only flow models have a scale of their noise, and this is none")
        made = type(before)(model.model.model_config)
        made.set_parameters(shift=before.shift, multiplier=before.multiplier)
        made.set_noise_scale(noise_scale)
        return io.NodeOutput(with_sampling(model, made))


NODES = (
    ModelSamplingSD3,
    ModelSamplingAuraFlow,
    ModelSamplingFlux,
    ModelNoiseScale,
)
