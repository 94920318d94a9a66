"""Nodes that change conditionings; each gives a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.conditioning import edit
from comfyk_core_nodes.nodes.limits import MAX_RESOLUTION

if TYPE_CHECKING:
    from torch import Tensor

    from comfyk_core_nodes.sampling.conditioning import Conditioning


class ConditioningCombine(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConditioningCombine",
            display_name="Conditioning (Combine)",
            category="model/conditioning/transform",
            description="Follows both conditionings: each is computed, and what they give is averaged.",
            search_aliases=[
                "combine",
                "merge conditioning",
                "combine prompts",
                "merge prompts",
                "mix prompts",
                "add prompt",
            ],
            essentials_category="Image Generation",
            v1_form=True,
            inputs=[io.Conditioning.Input("conditioning_1"), io.Conditioning.Input("conditioning_2")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning_1: Conditioning, conditioning_2: Conditioning) -> io.NodeOutput:
        return io.NodeOutput(edit.combine(conditioning_1, conditioning_2))


class ConditioningAverage(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConditioningAverage",
            display_name="Conditioning (Average)",
            category="model/conditioning/transform",
            description="Mixes two conditionings into one.",
            search_aliases=[
                "blend prompts",
                "interpolate conditioning",
                "mix prompts",
                "style fusion",
                "weighted blend",
            ],
            v1_form=True,
            inputs=[
                io.Conditioning.Input("conditioning_to"),
                io.Conditioning.Input("conditioning_from"),
                io.Float.Input(
                    "conditioning_to_strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The share of the first one; the second has the rest.",
                ),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(
        cls, conditioning_to: Conditioning, conditioning_from: Conditioning, conditioning_to_strength: float
    ) -> io.NodeOutput:
        return io.NodeOutput(edit.average(conditioning_to, conditioning_from, conditioning_to_strength))


class ConditioningConcat(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConditioningConcat",
            display_name="Conditioning (Concat)",
            category="model/conditioning/transform",
            description="Puts the second conditioning behind the first, as if it were one long prompt.",
            v1_form=True,
            inputs=[io.Conditioning.Input("conditioning_to"), io.Conditioning.Input("conditioning_from")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning_to: Conditioning, conditioning_from: Conditioning) -> io.NodeOutput:
        return io.NodeOutput(edit.concat(conditioning_to, conditioning_from))


class ConditioningMultiply(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConditioningMultiply",
            display_name="Conditioning (Multiply)",
            category="model/conditioning/transform",
            description="Scales a conditioning.",
            search_aliases=["scale conditioning", "scale prompt", "multiply conditioning", "multiply prompt"],
            v1_form=True,
            inputs=[
                io.Conditioning.Input("conditioning"),
                io.Float.Input("multiplier", default=1.0, min=-100.0, max=100.0, step=0.01),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning: Conditioning, multiplier: float) -> io.NodeOutput:
        return io.NodeOutput(edit.multiply(conditioning, multiplier))


class ConditioningZeroOut(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConditioningZeroOut",
            display_name="Conditioning Zero Out",
            category="model/conditioning/transform",
            description="Zeros in place of a conditioning: neither a prompt nor an empty one.",
            search_aliases=["null conditioning", "clear conditioning"],
            v1_form=True,
            inputs=[io.Conditioning.Input("conditioning")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning: Conditioning) -> io.NodeOutput:
        return io.NodeOutput(edit.zero_out(conditioning))


class ConditioningSetArea(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConditioningSetArea",
            display_name="Conditioning (Set Area)",
            category="model/conditioning/transform",
            description="Follows a conditioning in a rectangle only.",
            search_aliases=["regional prompt", "area prompt", "spatial conditioning", "localized prompt"],
            v1_form=True,
            inputs=[
                io.Conditioning.Input("conditioning"),
                io.Int.Input("width", default=64, min=64, max=MAX_RESOLUTION, step=8, tooltip="In pixels."),
                io.Int.Input("height", default=64, min=64, max=MAX_RESOLUTION, step=8, tooltip="In pixels."),
                io.Int.Input(
                    "x", default=0, min=0, max=MAX_RESOLUTION, step=8, tooltip="Pixels from the left."
                ),
                io.Int.Input(
                    "y", default=0, min=0, max=MAX_RESOLUTION, step=8, tooltip="Pixels from the top."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="The weight against other conditionings at the same place.",
                ),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(
        cls, conditioning: Conditioning, width: int, height: int, x: int, y: int, strength: float
    ) -> io.NodeOutput:
        return io.NodeOutput(edit.set_area(conditioning, width, height, x, y, strength))


class ConditioningSetAreaPercentage(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConditioningSetAreaPercentage",
            display_name="Conditioning (Set Area with Percentage)",
            category="model/conditioning/transform",
            description="Follows a conditioning in a rectangle only, given in shares of the picture.",
            v1_form=True,
            inputs=[
                io.Conditioning.Input("conditioning"),
                io.Float.Input("width", default=1.0, min=0, max=1.0, step=0.01),
                io.Float.Input("height", default=1.0, min=0, max=1.0, step=0.01),
                io.Float.Input("x", default=0, min=0, max=1.0, step=0.01),
                io.Float.Input("y", default=0, min=0, max=1.0, step=0.01),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="The weight against other conditionings at the same place.",
                ),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(
        cls, conditioning: Conditioning, width: float, height: float, x: float, y: float, strength: float
    ) -> io.NodeOutput:
        return io.NodeOutput(edit.set_area_percentage(conditioning, width, height, x, y, strength))


class ConditioningSetAreaStrength(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConditioningSetAreaStrength",
            display_name="Conditioning (Set Area Strength)",
            category="model/conditioning/transform",
            description="Weighs a conditioning against others at the same place.",
            v1_form=True,
            inputs=[
                io.Conditioning.Input("conditioning"),
                io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.01),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning: Conditioning, strength: float) -> io.NodeOutput:
        return io.NodeOutput(edit.set_strength(conditioning, strength))


class ConditioningSetMask(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConditioningSetMask",
            display_name="Conditioning (Set Mask)",
            category="model/conditioning/transform",
            description="Follows a conditioning where a mask is.",
            search_aliases=["masked prompt", "regional inpaint conditioning", "mask conditioning"],
            v1_form=True,
            inputs=[
                io.Conditioning.Input("conditioning"),
                io.Mask.Input("mask"),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="The weight against other conditionings at the same place.",
                ),
                io.Combo.Input(
                    "set_cond_area",
                    options=("default", "mask bounds"),
                    tooltip="Whether the whole picture is computed, or what is around the mask.",
                ),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(
        cls, conditioning: Conditioning, mask: Tensor, strength: float, set_cond_area: str
    ) -> io.NodeOutput:
        return io.NodeOutput(edit.set_mask(conditioning, mask, strength, bounds=set_cond_area != "default"))


class ConditioningSetTimestepRange(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConditioningSetTimestepRange",
            display_name="ConditioningSetTimestepRange",
            category="model/conditioning/transform",
            description="Follows a conditioning during a part of the sampling only.",
            v1_form=True,
            inputs=[
                io.Conditioning.Input("conditioning"),
                io.Float.Input(
                    "start", default=0.0, min=0.0, max=1.0, step=0.001, tooltip="0 is the first step."
                ),
                io.Float.Input(
                    "end", default=1.0, min=0.0, max=1.0, step=0.001, tooltip="1 is the last step."
                ),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning: Conditioning, start: float, end: float) -> io.NodeOutput:
        return io.NodeOutput(edit.set_timestep_range(conditioning, start, end))


NODES = (
    ConditioningCombine,
    ConditioningAverage,
    ConditioningConcat,
    ConditioningMultiply,
    ConditioningZeroOut,
    ConditioningSetArea,
    ConditioningSetAreaPercentage,
    ConditioningSetAreaStrength,
    ConditioningSetMask,
    ConditioningSetTimestepRange,
)
