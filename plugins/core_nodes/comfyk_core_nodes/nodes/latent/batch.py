"""Nodes that take batches of latents apart and put them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfyk import io

from comfyk_core_nodes.latents.batch import from_batch, join, rebatch, repeat
from comfyk_core_nodes.nodes.limits import MAX_RESOLUTION

Latent = dict[str, Any]

_MODULE = "comfy_extras.nodes_latent"
_CATEGORY = "model/latent/batch"


class LatentFromBatch(io.ComfyNode):
    """Some latents of a batch, at least one, with the noise that they have there."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentFromBatch",
            display_name="Get Latent From Batch",
            category=_CATEGORY,
            description="Takes latents out of a batch.",
            search_aliases=["select from batch", "pick latent", "batch subset"],
            v1_form=True,
            inputs=[
                io.Latent.Input("samples"),
                io.Int.Input("batch_index", default=0, min=-MAX_RESOLUTION, max=MAX_RESOLUTION),
                io.Int.Input("length", default=1, min=1, max=64),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, batch_index: int, length: int) -> io.NodeOutput:
        return io.NodeOutput(from_batch(samples, batch_index, length))


class RepeatLatentBatch(io.ComfyNode):
    """The whole batch over and over."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RepeatLatentBatch",
            display_name="Repeat Latent Batch",
            category=_CATEGORY,
            description="Repeats latents.",
            search_aliases=["duplicate latent", "clone latent"],
            v1_form=True,
            inputs=[io.Latent.Input("samples"), io.Int.Input("amount", default=1, min=1, max=64)],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, amount: int) -> io.NodeOutput:
        return io.NodeOutput(repeat(samples, amount))


class LatentBatch(io.ComfyNode):
    """Two batches as one, the second at the size of the first."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentBatch",
            display_name="Batch Latents (DEPRECATED)",
            category=_CATEGORY,
            description="Puts two batches of latents into one, the second at the size of the first.",
            search_aliases=["combine latents", "merge latents", "join latents"],
            is_deprecated=True,
            inputs=[io.Latent.Input("samples1"), io.Latent.Input("samples2")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples1: Latent, samples2: Latent) -> io.NodeOutput:
        return io.NodeOutput(join(samples1, samples2))


class LatentBatchSeedBehavior(io.ComfyNode):
    """`fixed` gives all latents of a batch the same noise, `random` each its own again."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentBatchSeedBehavior",
            category="model/latent/advanced",
            description="Says whether the latents of a batch get the same noise or each its own.",
            inputs=[
                io.Latent.Input("samples"),
                io.Combo.Input("seed_behavior", options=("random", "fixed"), default="fixed"),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, seed_behavior: str) -> io.NodeOutput:
        latent = {key: value for key, value in samples.items() if key != "batch_index"}
        if seed_behavior == "fixed":
            first = samples.get("batch_index", [0])[0]
            latent["batch_index"] = [first] * samples["samples"].shape[0]
        return io.NodeOutput(latent)


class RebatchLatents(io.ComfyNode):
    """The latents of a list of batches, in batches of another size."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_rebatch"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RebatchLatents",
            display_name="Rebatch Latents",
            category=_CATEGORY,
            description="Regroups latents into batches of a given size.",
            is_input_list=True,
            inputs=[io.Latent.Input("latents"), io.Int.Input("batch_size", default=1, min=1, max=4096)],
            outputs=[io.Latent.Output(is_output_list=True)],
        )

    @classmethod
    def execute(cls, latents: Sequence[Latent], batch_size: Sequence[int]) -> io.NodeOutput:
        return io.NodeOutput(rebatch(latents, batch_size[0]))


NODES = (LatentFromBatch, RepeatLatentBatch, LatentBatch, LatentBatchSeedBehavior, RebatchLatents)
