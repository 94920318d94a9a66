"""Nodes that change what a model is taken to predict, at which levels of noise, and how it computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfyk import io

if TYPE_CHECKING:
    from comfyk_core_nodes.memory.patcher import ModelPatcher


def with_sampling(model: ModelPatcher, sampling: Any) -> ModelPatcher:
    """A clone with these noise levels and this prediction."""
    model = model.clone()
    model.add_object_patch("model_sampling", sampling)
    return model


class ModelSamplingDiscrete(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_model_advanced"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModelSamplingDiscrete",
            display_name="ModelSamplingDiscrete",
            category="model/patch",
            description="Has a model taken to predict something else, as its training says.",
            v1_form=True,
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input(
                    "sampling", options=("eps", "v_prediction", "lcm", "x0", "img_to_img", "img_to_img_flow")
                ),
                io.Boolean.Input(
                    "zsnr",
                    default=False,
                    advanced=True,
                    tooltip="Noise without a trace of the picture at the first step.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, sampling: str, zsnr: bool) -> io.NodeOutput:
        from comfyk_core_nodes.sampling import model_sampling, prediction

        levels = model_sampling.ModelSamplingDiscrete
        if sampling == "lcm":
            levels = model_sampling.ModelSamplingDiscreteDistilled
        kinds = {
            "eps": prediction.EPS,
            "v_prediction": prediction.V_PREDICTION,
            "lcm": prediction.LCM,
            "x0": prediction.X0,
            "img_to_img": prediction.IMG_TO_IMG,
            "img_to_img_flow": prediction.IMG_TO_IMG_FLOW,
        }
        config = model.model.model_config
        made = model_sampling.model_sampling(levels, kinds[sampling], config, zsnr=zsnr)
        return io.NodeOutput(with_sampling(model, made))


class ModelSamplingContinuousEDM(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_model_advanced"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModelSamplingContinuousEDM",
            display_name="ModelSamplingContinuousEDM",
            category="model/patch",
            description="Levels of noise between two bounds, for models that were trained so.",
            v1_form=True,
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input(
                    "sampling", options=("v_prediction", "edm", "edm_playground_v2.5", "eps", "cosmos_rflow")
                ),
                io.Float.Input(
                    "sigma_max", default=120.0, min=0.0, max=1000.0, step=0.001, round=False, advanced=True
                ),
                io.Float.Input(
                    "sigma_min", default=0.002, min=0.0, max=1000.0, step=0.001, round=False, advanced=True
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, sampling: str, sigma_max: float, sigma_min: float) -> io.NodeOutput:
        from comfyk_core_nodes.families.sd.latent_formats import SDXL_Playground_2_5
        from comfyk_core_nodes.sampling import model_sampling, prediction

        levels = model_sampling.ModelSamplingContinuousEDM
        if sampling == "cosmos_rflow":
            levels = model_sampling.ModelSamplingCosmosRFlow
        kinds = {
            "v_prediction": prediction.V_PREDICTION,
            "edm": prediction.EDM,
            "edm_playground_v2.5": prediction.EDM,
            "eps": prediction.EPS,
            "cosmos_rflow": prediction.COSMOS_RFLOW,
        }
        made = model_sampling.model_sampling(levels, kinds[sampling], model.model.model_config)
        made.set_parameters(sigma_min, sigma_max, 0.5 if sampling.startswith("edm") else 1.0)
        model = with_sampling(model, made)
        if sampling == "edm_playground_v2.5":
            model.add_object_patch("latent_format", SDXL_Playground_2_5())
        return io.NodeOutput(model)


class ModelSamplingContinuousV(io.ComfyNode):
    """`sampling` has one choice."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_model_advanced"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModelSamplingContinuousV",
            display_name="ModelSamplingContinuousV",
            category="model/patch",
            description=("Levels of noise between two bounds, for v-prediction models that were trained so."),
            v1_form=True,
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("sampling", options=("v_prediction",)),
                io.Float.Input(
                    "sigma_max", default=500.0, min=0.0, max=1000.0, step=0.001, round=False, advanced=True
                ),
                io.Float.Input(
                    "sigma_min", default=0.03, min=0.0, max=1000.0, step=0.001, round=False, advanced=True
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, sampling: str, sigma_max: float, sigma_min: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling import model_sampling, prediction

        made = model_sampling.model_sampling(
            model_sampling.ModelSamplingContinuousV, prediction.V_PREDICTION, model.model.model_config
        )
        made.set_parameters(sigma_min, sigma_max, 1.0)
        return io.NodeOutput(with_sampling(model, made))


class ModelSamplingStableCascade(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_model_advanced"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModelSamplingStableCascade",
            display_name="ModelSamplingStableCascade",
            category="model/patch/stable cascade",
            description="Levels of noise of Stable Cascade.",
            v1_form=True,
            inputs=[
                io.Model.Input("model"),
                io.Float.Input(
                    "shift",
                    default=2.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Higher ones spend more of the steps where there is much noise.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, shift: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling import model_sampling, prediction

        made = model_sampling.model_sampling(
            model_sampling.StableCascadeSampling, prediction.EPS, model.model.model_config
        )
        made.set_parameters(shift)
        return io.NodeOutput(with_sampling(model, made))


class ModelComputeDtype(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_model_advanced"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModelComputeDtype",
            display_name="ModelComputeDtype",
            category="advanced/debug",
            description="What a model computes in.",
            search_aliases=["model precision", "change dtype"],
            v1_form=True,
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("dtype", options=("default", "fp32", "fp16", "bf16"), advanced=True),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, dtype: str) -> io.NodeOutput:
        import torch

        dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        model = model.clone()
        model.set_model_compute_dtype(dtypes.get(dtype))
        return io.NodeOutput(model)


class ModelAttentionBackend(io.ComfyNode):
    """torch's attention is what models compute with, so what an earlier node put in its place is taken out."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_model_advanced"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModelAttentionBackend",
            display_name="ModelAttentionBackend",
            category="model/patch",
            description="How a model computes attention.",
            v1_form=True,
            inputs=[io.Model.Input("model"), io.Combo.Input("attention", options=("pytorch attention",))],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, attention: str) -> io.NodeOutput:
        model = model.clone()
        options = model.model_options["transformer_options"]
        model.model_options["transformer_options"] = {
            key: value for key, value in options.items() if key != "optimized_attention_override"
        }
        return io.NodeOutput(model)

    @classmethod
    def validate_inputs(cls, attention: str | None) -> bool:
        """A workflow may carry a backend that is not here."""
        return True


NODES = (
    ModelSamplingDiscrete,
    ModelSamplingContinuousEDM,
    ModelSamplingContinuousV,
    ModelSamplingStableCascade,
    ModelComputeDtype,
    ModelAttentionBackend,
)
