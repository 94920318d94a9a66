"""Nodes that write latents into the output folder and read them from the input folder."""

from __future__ import annotations

from typing import Any

from comfyk import io

from comfyk_core_nodes.images.save import save_file
from comfyk_core_nodes.latents.files import EXTENSION, latent_file, load_latent
from comfyk_core_nodes.nodes.image.input_files import (
    InputFileError,
    find_input,
    fingerprint,
    input_files,
)
from comfyk_core_nodes.nodes.image.save import PREFIX_TOOLTIP, SavingNode, destination, results

Latent = dict[str, Any]

_CATEGORY = "model/latent"


class SaveLatent(SavingNode):
    """Writes the tensor of latents, without mask, and hands them on."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveLatent",
            display_name="Save Latent",
            category=_CATEGORY,
            description="Writes latents into the output folder, in a file that carries its workflow.",
            search_aliases=["export latent"],
            v1_form=True,
            is_output_node=True,
            inputs=[
                io.Latent.Input("samples"),
                io.String.Input("filename_prefix", default="latents/ComfyUI", tooltip=PREFIX_TOOLTIP),
            ],
            outputs=[io.Latent.Output(display_name="samples")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, samples: Latent, filename_prefix: str = "ComfyUI") -> io.NodeOutput:
        folder = io.FolderType.output
        target, counter, metadata = destination(filename_prefix, folder, cls.hidden)
        data = latent_file(samples["samples"], metadata)
        name, _ = save_file(target, counter, EXTENSION, lambda file: file.write(data))
        return io.NodeOutput(samples, ui={"latents": results([name], target, folder)})


def latent_names() -> list[str]:
    """The latents in the input folder, sorted."""
    return input_files((EXTENSION,))


class LoadLatent(io.ComfyNode):
    """Reads what SaveLatent wrote, from the input folder, or `name.latent [output]` from the output folder."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadLatent",
            display_name="Load Latent",
            category=_CATEGORY,
            description="Reads latents from a file in the input folder.",
            search_aliases=["import latent", "open latent"],
            v1_form=True,
            inputs=[io.Combo.Input("latent", options=latent_names)],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, latent: str) -> io.NodeOutput:
        return io.NodeOutput({"samples": load_latent(find_input(latent))})

    @classmethod
    def fingerprint_inputs(cls, latent: str | None) -> str | float:
        return fingerprint(None if latent is None else find_input(latent))

    @classmethod
    def validate_inputs(cls, latent: str | None) -> bool | str:
        try:
            if latent is not None:
                find_input(latent)
        except InputFileError:
            return f"Invalid latent file: {latent}"
        return True


NODES = (SaveLatent, LoadLatent)
