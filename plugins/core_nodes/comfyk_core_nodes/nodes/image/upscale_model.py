"""Nodes that enlarge pictures with a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.nodes.loaders.model_files import ModelFileNode, model_names, model_path

if TYPE_CHECKING:
    from torch import Tensor

    from comfyk_core_nodes.upscaling.load import UpscaleModel


class UpscaleModelLoader(ModelFileNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_upscale_model"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UpscaleModelLoader",
            display_name="Load Upscale Model",
            category="model/loaders",
            description="Loads an upscale model, such as ESRGAN.",
            inputs=[io.Combo.Input("model_name", options=model_names("upscale_models"))],
            outputs=[io.UpscaleModel.Output()],
        )

    @classmethod
    def execute(cls, model_name: str) -> io.NodeOutput:
        from comfyk_core_nodes.upscaling.load import load_upscale_model

        return io.NodeOutput(load_upscale_model(model_path("upscale_models", model_name)))


class ImageUpscaleWithModel(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_upscale_model"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageUpscaleWithModel",
            display_name="Upscale Image (using Model)",
            category="image/upscaling",
            description="Enlarges pictures with a model, by as much as it was trained for.",
            search_aliases=[
                "upscale",
                "upscaler",
                "upsc",
                "enlarge image",
                "super resolution",
                "hires",
                "superres",
                "increase resolution",
            ],
            inputs=[io.UpscaleModel.Input("upscale_model"), io.Image.Input("image")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, upscale_model: UpscaleModel, image: Tensor) -> io.NodeOutput:
        from comfyk_core_nodes.upscaling.tiled import upscale_tiled

        return io.NodeOutput(upscale_tiled(upscale_model, image))


NODES = (
    UpscaleModelLoader,
    ImageUpscaleWithModel,
)
