"""Nodes that compute with latents, and functions on latents (LATENT_OPERATION) as values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfyk import io

from comfyk_core_nodes.latents.arithmetic import interpolate, match_size_and_batch
from comfyk_core_nodes.latents.operations import Operation, on_guidance, reinhard_tonemap, sharpen

if TYPE_CHECKING:
    from comfyk_core_nodes.memory.patcher import ModelPatcher

Latent = dict[str, Any]

_MODULE = "comfy_extras.nodes_latent"
_CATEGORY = "model/latent/advanced"
_OPERATIONS = "model/latent/advanced/operations"


def _two_latents() -> list[io.Input]:
    return [io.Latent.Input("samples1"), io.Latent.Input("samples2")]


class LatentAdd(io.ComfyNode):
    """`samples1 + samples2`, the second at the size of the first."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentAdd",
            category=_CATEGORY,
            description="Adds latents.",
            search_aliases=["combine latents", "sum latents"],
            inputs=_two_latents(),
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples1: Latent, samples2: Latent) -> io.NodeOutput:
        first = samples1["samples"]
        return io.NodeOutput(
            {**samples1, "samples": first + match_size_and_batch(samples2["samples"], first)}
        )


class LatentSubtract(io.ComfyNode):
    """`samples1 - samples2`, the second at the size of the first."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentSubtract",
            category=_CATEGORY,
            description="Subtracts the second latents from the first.",
            search_aliases=["difference latent", "remove features"],
            inputs=_two_latents(),
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples1: Latent, samples2: Latent) -> io.NodeOutput:
        first = samples1["samples"]
        return io.NodeOutput(
            {**samples1, "samples": first - match_size_and_batch(samples2["samples"], first)}
        )


class LatentMultiply(io.ComfyNode):
    """`samples * multiplier`."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentMultiply",
            category=_CATEGORY,
            description="Multiplies latents by a number.",
            search_aliases=["scale latent", "amplify latent", "latent gain"],
            inputs=[
                io.Latent.Input("samples"),
                io.Float.Input("multiplier", default=1.0, min=-10.0, max=10.0, step=0.01),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, multiplier: float) -> io.NodeOutput:
        return io.NodeOutput({**samples, "samples": samples["samples"] * multiplier})


class LatentInterpolate(io.ComfyNode):
    """Mixes directions and lengths apart; a ratio of 1 gives the first latents."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentInterpolate",
            category=_CATEGORY,
            description="Mixes two latents without making them weaker. A ratio of 1 gives the first.",
            search_aliases=["blend latent", "mix latent", "lerp latent", "transition"],
            inputs=[*_two_latents(), io.Float.Input("ratio", default=1.0, min=0.0, max=1.0, step=0.01)],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples1: Latent, samples2: Latent, ratio: float) -> io.NodeOutput:
        first = samples1["samples"]
        mixed = interpolate(first, match_size_and_batch(samples2["samples"], first), ratio)
        return io.NodeOutput({**samples1, "samples": mixed})


class LatentApplyOperation(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentApplyOperation",
            category=_OPERATIONS,
            description="Applies an operation to latents.",
            search_aliases=["transform latent"],
            is_experimental=True,
            inputs=[io.Latent.Input("samples"), io.LatentOperation.Input("operation")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, operation: Operation) -> io.NodeOutput:
        return io.NodeOutput({**samples, "samples": operation(latent=samples["samples"])})


class LatentApplyOperationCFG(io.ComfyNode):
    """In each step, to the difference between the results with and without the prompt."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentApplyOperationCFG",
            category=_OPERATIONS,
            description="Applies an operation in each step of sampling, to what the prompt adds.",
            is_experimental=True,
            inputs=[io.Model.Input("model"), io.LatentOperation.Input("operation")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, operation: Operation) -> io.NodeOutput:
        patched = model.clone()
        patched.set_model_sampler_pre_cfg_function(on_guidance(operation))
        return io.NodeOutput(patched)


class LatentOperationTonemapReinhard(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentOperationTonemapReinhard",
            category=_OPERATIONS,
            description="An operation that keeps colours from burning out at a high CFG.",
            search_aliases=["hdr latent"],
            is_experimental=True,
            inputs=[io.Float.Input("multiplier", default=1.0, min=0.0, max=100.0, step=0.01)],
            outputs=[io.LatentOperation.Output()],
        )

    @classmethod
    def execute(cls, multiplier: float) -> io.NodeOutput:
        return io.NodeOutput(reinhard_tonemap(multiplier))


class LatentOperationSharpen(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentOperationSharpen",
            category=_OPERATIONS,
            description="An operation that sharpens.",
            is_experimental=True,
            inputs=[
                io.Int.Input("sharpen_radius", default=9, min=1, max=31, step=1, advanced=True),
                io.Float.Input("sigma", default=1.0, min=0.1, max=10.0, step=0.1, advanced=True),
                io.Float.Input("alpha", default=0.1, min=0.0, max=5.0, step=0.01, advanced=True),
            ],
            outputs=[io.LatentOperation.Output()],
        )

    @classmethod
    def execute(cls, sharpen_radius: int, sigma: float, alpha: float) -> io.NodeOutput:
        return io.NodeOutput(sharpen(sharpen_radius, sigma, alpha))


NODES = (
    LatentAdd,
    LatentSubtract,
    LatentMultiply,
    LatentInterpolate,
    LatentApplyOperation,
    LatentApplyOperationCFG,
    LatentOperationTonemapReinhard,
    LatentOperationSharpen,
)
