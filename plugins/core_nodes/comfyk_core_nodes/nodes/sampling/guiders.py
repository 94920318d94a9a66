"""Nodes for guidance: how what the model says of several conditionings becomes one denoised latent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.nodes.sampling import widgets

if TYPE_CHECKING:
    from comfyk_core_nodes.memory.patcher import ModelPatcher
    from comfyk_core_nodes.sampling.conditioning import Conditioning


class BasicGuider(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BasicGuider",
            display_name="Basic Guider",
            category="model/sampling/guiders",
            description="Follows one conditioning, without guidance.",
            inputs=[io.Model.Input("model"), io.Conditioning.Input("conditioning")],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, conditioning: Conditioning) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.guidance import BasicGuider as Guider

        guider = Guider(model)
        guider.set_conds(conditioning)
        return io.NodeOutput(guider)


class CFGGuider(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CFGGuider",
            display_name="CFG Guider",
            category="model/sampling/guiders",
            description="Follows a positive conditioning, away from a negative one.",
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                widgets.cfg(),
            ],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def execute(
        cls, model: ModelPatcher, positive: Conditioning, negative: Conditioning, cfg: float
    ) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.guidance import CFGGuider as Guider

        guider = Guider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        return io.NodeOutput(guider)


class DualCFGGuider(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DualCFGGuider",
            display_name="Dual CFG Guider",
            category="model/sampling/guiders",
            description=(
                "Follows a first conditioning away from a second one, and that away from a negative one."
            ),
            search_aliases=["dual prompt guidance"],
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("cond1"),
                io.Conditioning.Input("cond2"),
                io.Conditioning.Input("negative"),
                widgets.cfg("cfg_conds", tooltip="How far from the second to the first."),
                widgets.cfg("cfg_cond2_negative", tooltip="How far from the negative one to the second."),
                io.Combo.Input("style", options=("regular", "nested")),
            ],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        cond1: Conditioning,
        cond2: Conditioning,
        negative: Conditioning,
        cfg_conds: float,
        cfg_cond2_negative: float,
        style: str,
    ) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.guidance import DualCFGGuider as Guider

        guider = Guider(model)
        guider.set_conds(cond1, cond2, negative)
        guider.set_cfg(cfg_conds, cfg_cond2_negative, nested=style == "nested")
        return io.NodeOutput(guider)


class DualModelGuider(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DualModelGuider",
            display_name="Dual Model CFG Guider",
            category="model/sampling/guiders",
            description=(
                "Follows a positive conditioning with one model, away from a negative one with another."
            ),
            is_experimental=True,
            inputs=[
                io.Model.Input("model", tooltip="The model of the positive conditioning."),
                io.Conditioning.Input("positive"),
                widgets.cfg(default=4.0),
                io.Model.Input(
                    "model_negative",
                    optional=True,
                    tooltip="The model of the negative conditioning; by default the same.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="By default none: that model gets no text."
                ),
            ],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        positive: Conditioning,
        cfg: float,
        model_negative: ModelPatcher | None = None,
        negative: Conditioning | None = None,
    ) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.guidance import CFGGuider as Guider
        from comfyk_core_nodes.sampling.two_models import TwoModelGuider

        guider = Guider(model) if model_negative is None else TwoModelGuider(model, model_negative)
        guider.set_conds(positive, [[None, {}]] if negative is None else negative)
        guider.set_cfg(cfg)
        return io.NodeOutput(guider)


class CFGOverride(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CFGOverride",
            display_name="CFG Override",
            category="model/sampling/guiders",
            description=(
                "Another guidance scale during a part of the sampling. Of several that overlap,"
                " the last one counts."
            ),
            inputs=[
                io.Model.Input("model"),
                widgets.cfg(default=1.0),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.001, tooltip="0 is the first step."
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.001, tooltip="1 is the last step."
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(
        cls, model: ModelPatcher, cfg: float, start_percent: float, end_percent: float
    ) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.override import cfg_between

        sampling = model.get_model_object("model_sampling")
        highest, lowest = (sampling.percent_to_sigma(percent) for percent in (start_percent, end_percent))
        model = model.clone()
        model.add_wrapper("predict_noise", cfg_between(cfg, lowest, highest))
        return io.NodeOutput(model)


class RescaleCFG(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_model_advanced"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RescaleCFG",
            display_name="RescaleCFG",
            category="model/patch",
            description=(
                "Keeps the contrast of the picture at high guidance scales (arXiv:2305.08891, section 3.4)."
            ),
            v1_form=True,
            inputs=[
                io.Model.Input("model"),
                io.Float.Input(
                    "multiplier",
                    default=0.7,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the rescaled latent is taken.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, multiplier: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.model_sampling import is_flow
        from comfyk_core_nodes.sampling.rescale import rescaled_cfg

        flow = is_flow(model.get_model_object("model_sampling"))
        model = model.clone()
        model.set_model_sampler_cfg_function(rescaled_cfg(multiplier, flow))
        return io.NodeOutput(model)


NODES = (
    BasicGuider,
    CFGGuider,
    DualCFGGuider,
    DualModelGuider,
    CFGOverride,
    RescaleCFG,
)
