"""Nodes that apply LoRA files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfyk import io

from comfyk_core_nodes.nodes.loaders.model_files import ModelFileNode, model_names, model_path

if TYPE_CHECKING:
    from comfyk_core_nodes.memory.patcher import ModelPatcher
    from comfyk_core_nodes.text.clip import CLIP


def _apply(
    model: ModelPatcher | None, clip: CLIP | None, name: str, strength_model: float, strength_clip: float
) -> tuple[Any, Any]:
    if strength_model == 0 and strength_clip == 0:
        return model, clip
    from comfyk_core_nodes.families.lora import apply_lora
    from comfyk_core_nodes.weights.files import load_torch_file

    path = model_path("loras", name)
    weights, _ = load_torch_file(path)
    return apply_lora(model, clip, weights, strength_model, strength_clip, path)


class LoraLoader(ModelFileNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraLoader",
            display_name="Load LoRA (Model and CLIP)",
            category="model/loaders",
            description=(
                "Adds a LoRA to the diffusion model and the text encoders. Several follow one another."
            ),
            search_aliases=["lora", "load lora", "apply lora", "lora loader", "lora model"],
            essentials_category="Image Generation",
            v1_form=True,
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip"),
                io.Combo.Input("lora_name", options=model_names("loras"), tooltip="A file in models/loras."),
                io.Float.Input(
                    "strength_model",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How much of it is added; less than 0 takes it away.",
                ),
                io.Float.Input(
                    "strength_clip",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="The same for the text encoders.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the LoRA."),
                io.Clip.Output(tooltip="The text encoders with the LoRA."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher | None,
        clip: CLIP | None,
        lora_name: str,
        strength_model: float,
        strength_clip: float,
    ) -> io.NodeOutput:
        return io.NodeOutput(*_apply(model, clip, lora_name, strength_model, strength_clip))


class LoraLoaderModelOnly(ModelFileNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraLoaderModelOnly",
            display_name="Load LoRA",
            category="model/loaders",
            description="Adds a LoRA to the diffusion model alone. Several follow one another.",
            search_aliases=["lora", "load lora", "apply lora", "lora loader", "lora model"],
            essentials_category="Image Generation",
            v1_form=True,
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("lora_name", options=model_names("loras"), tooltip="A file in models/loras."),
                io.Float.Input(
                    "strength_model",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How much of it is added; less than 0 takes it away.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, lora_name: str, strength_model: float) -> io.NodeOutput:
        return io.NodeOutput(_apply(model, None, lora_name, strength_model, 0)[0])


NODES = (
    LoraLoader,
    LoraLoaderModelOnly,
)
