"""Nodes that change sigmas, `[steps + 1]`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from comfyk import io

if TYPE_CHECKING:
    from torch import Tensor

    from comfyk_core_nodes.memory.patcher import ModelPatcher

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class SplitSigmas(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SplitSigmas",
            category="model/sampling/sigmas",
            description="Sigmas up to a step, and from it on.",
            inputs=[io.Sigmas.Input("sigmas"), io.Int.Input("step", default=0, min=0, max=10000)],
            outputs=[
                io.Sigmas.Output(display_name="high_sigmas"),
                io.Sigmas.Output(display_name="low_sigmas"),
            ],
        )

    @classmethod
    def execute(cls, sigmas: Tensor, step: int) -> io.NodeOutput:
        return io.NodeOutput(sigmas[: step + 1], sigmas[step:])


class SplitSigmasDenoise(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SplitSigmasDenoise",
            category="model/sampling/sigmas",
            description="Splits sigmas so that the second part has a share of the steps.",
            inputs=[
                io.Sigmas.Input("sigmas"),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The share of the second part.",
                ),
            ],
            outputs=[
                io.Sigmas.Output(display_name="high_sigmas"),
                io.Sigmas.Output(display_name="low_sigmas"),
            ],
        )

    @classmethod
    def execute(cls, sigmas: Tensor, denoise: float) -> io.NodeOutput:
        last = round(max(len(sigmas) - 1, 0) * denoise)
        return io.NodeOutput(sigmas[:-last], sigmas[-(last + 1) :])


class FlipSigmas(io.ComfyNode):
    """A run cannot start at 0, so it starts just above."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlipSigmas",
            category="model/sampling/sigmas",
            description="Sigmas in the other direction, from a picture to noise.",
            inputs=[io.Sigmas.Input("sigmas")],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, sigmas: Tensor) -> io.NodeOutput:
        flipped = sigmas.flip(0)
        if len(flipped) > 0 and flipped[0] == 0:
            flipped[0] = 0.0001
        return io.NodeOutput(flipped)


class SetFirstSigma(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SetFirstSigma",
            category="model/sampling/sigmas",
            description="Sigmas with another first one.",
            inputs=[
                io.Sigmas.Input("sigmas"),
                io.Float.Input("sigma", default=136.0, min=0.0, max=20000.0, step=0.001, round=False),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, sigmas: Tensor, sigma: float) -> io.NodeOutput:
        if len(sigmas) == 0:
            raise ValueError("there is no first sigma to set: the schedule is empty; was denoise 0?")
        sigmas = sigmas.clone()
        sigmas[0] = sigma
        return io.NodeOutput(sigmas)


class ExtendIntermediateSigmas(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExtendIntermediateSigmas",
            category="model/sampling/sigmas",
            description="Puts more steps between sigmas of a range.",
            search_aliases=["interpolate sigmas"],
            inputs=[
                io.Sigmas.Input("sigmas"),
                io.Int.Input("steps", default=2, min=1, max=100, tooltip="How many steps each becomes."),
                io.Float.Input(
                    "start_at_sigma",
                    default=-1.0,
                    min=-1.0,
                    max=20000.0,
                    step=0.01,
                    round=False,
                    tooltip="The highest sigma of the range; -1 is no bound.",
                ),
                io.Float.Input(
                    "end_at_sigma",
                    default=12.0,
                    min=0.0,
                    max=20000.0,
                    step=0.01,
                    round=False,
                    tooltip="The lowest sigma of the range.",
                ),
                io.Combo.Input("spacing", options=("linear", "cosine", "sine")),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(
        cls, sigmas: Tensor, steps: int, start_at_sigma: float, end_at_sigma: float, spacing: str
    ) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.schedules import extend

        end = float("inf") if start_at_sigma < 0 else start_at_sigma
        return io.NodeOutput(extend(sigmas, steps, end_at_sigma, end, spacing))


class ManualSigmas(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ManualSigmas",
            category="model/sampling/sigmas",
            description="Sigmas by hand.",
            search_aliases=["custom noise schedule", "define sigmas"],
            is_experimental=True,
            inputs=[
                io.String.Input("sigmas", default="1, 0.5", tooltip="Numbers with anything between them.")
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, sigmas: str) -> io.NodeOutput:
        import torch

        return io.NodeOutput(
            torch.tensor([float(number) for number in _NUMBER.findall(sigmas)], dtype=torch.float32)
        )


class SamplingPercentToSigma(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplingPercentToSigma",
            category="model/sampling/sigmas",
            description="The sigma at a share of the sampling.",
            inputs=[
                io.Model.Input("model"),
                io.Float.Input("sampling_percent", default=0.0, min=0.0, max=1.0, step=0.0001),
                io.Boolean.Input(
                    "return_actual_sigma",
                    default=False,
                    tooltip="At 0 and 1, the sigmas of the model, not what ranges are compared with.",
                ),
            ],
            outputs=[io.Float.Output(display_name="sigma_value")],
        )

    @classmethod
    def execute(
        cls, model: ModelPatcher, sampling_percent: float, return_actual_sigma: bool
    ) -> io.NodeOutput:
        sampling = model.get_model_object("model_sampling")
        if return_actual_sigma and sampling_percent in (0.0, 1.0):
            ends = {0.0: sampling.sigma_max, 1.0: sampling.sigma_min}
            return io.NodeOutput(float(ends[sampling_percent]))
        return io.NodeOutput(sampling.percent_to_sigma(sampling_percent))


NODES = (
    SplitSigmas,
    SplitSigmasDenoise,
    FlipSigmas,
    SetFirstSigma,
    ExtendIntermediateSigmas,
    ManualSigmas,
    SamplingPercentToSigma,
)
