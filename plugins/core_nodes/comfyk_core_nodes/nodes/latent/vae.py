"""Nodes from pictures `[B, H, W, 3]` to latents `[B, 4, H/8, W/8]` and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.families.missing_parts import present

if TYPE_CHECKING:
    from torch import Tensor

    from comfyk_core_nodes.sampling.latents import Latent
    from comfyk_core_nodes.vae.vae import VAE


def as_pictures(pixels: Tensor) -> Tensor:
    """Frames of videos `[B, T, H, W, C]` as pictures one after the other; pictures as they are."""
    return pixels.flatten(0, 1) if pixels.ndim == 5 else pixels


class VAEDecode(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VAEDecode",
            display_name="VAE Decode",
            category="model/latent",
            description="Turns latents into pictures.",
            search_aliases=["decode", "decode latent", "latent to image", "render latent"],
            v1_form=True,
            inputs=[
                io.Latent.Input("samples", tooltip="The latents."),
                io.Vae.Input("vae", tooltip="The VAE of the model that made them."),
            ],
            outputs=[io.Image.Output(tooltip="The pictures.")],
        )

    @classmethod
    def execute(cls, samples: Latent, vae: VAE | None) -> io.NodeOutput:
        return io.NodeOutput(as_pictures(present(vae, "VAE").decode(samples["samples"])))


class VAEDecodeTiled(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VAEDecodeTiled",
            display_name="VAE Decode (Tiled)",
            category="model/latent",
            description="Turns latents into pictures in tiles, which takes less memory.",
            v1_form=True,
            inputs=[
                io.Latent.Input("samples"),
                io.Vae.Input("vae"),
                io.Int.Input(
                    "tile_size",
                    default=512,
                    min=64,
                    max=4096,
                    step=32,
                    advanced=True,
                    tooltip="Pixels along a side of a tile.",
                ),
                io.Int.Input(
                    "overlap",
                    default=64,
                    min=0,
                    max=4096,
                    step=32,
                    advanced=True,
                    tooltip="Pixels that tiles share with their neighbours.",
                ),
                io.Int.Input(
                    "temporal_size",
                    default=64,
                    min=8,
                    max=4096,
                    step=4,
                    advanced=True,
                    tooltip="Frames at a time, for VAEs of videos.",
                ),
                io.Int.Input(
                    "temporal_overlap",
                    default=8,
                    min=4,
                    max=4096,
                    step=4,
                    advanced=True,
                    tooltip="Frames that such pieces share.",
                ),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls,
        samples: Latent,
        vae: VAE | None,
        tile_size: int,
        overlap: int,
        temporal_size: int,
        temporal_overlap: int,
    ) -> io.NodeOutput:
        vae = present(vae, "VAE")
        overlap = min(overlap, tile_size // 4)
        ratio = vae.spacial_compression_decode()
        pixels = vae.decode_tiled(
            samples["samples"], tile_x=tile_size // ratio, tile_y=tile_size // ratio, overlap=overlap // ratio
        )
        return io.NodeOutput(as_pictures(pixels))


class VAEEncode(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VAEEncode",
            display_name="VAE Encode",
            category="model/latent",
            description="Turns pictures into latents.",
            search_aliases=["encode", "encode image", "image to latent"],
            v1_form=True,
            inputs=[io.Image.Input("pixels"), io.Vae.Input("vae")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, pixels: Tensor, vae: VAE | None) -> io.NodeOutput:
        return io.NodeOutput({"samples": present(vae, "VAE").encode(pixels)})


class VAEEncodeTiled(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VAEEncodeTiled",
            display_name="VAE Encode (Tiled)",
            category="model/latent",
            description="Turns pictures into latents in tiles, which takes less memory.",
            v1_form=True,
            inputs=[
                io.Image.Input("pixels"),
                io.Vae.Input("vae"),
                io.Int.Input(
                    "tile_size",
                    default=512,
                    min=64,
                    max=4096,
                    step=64,
                    advanced=True,
                    tooltip="Pixels along a side of a tile.",
                ),
                io.Int.Input(
                    "overlap",
                    default=64,
                    min=0,
                    max=4096,
                    step=32,
                    advanced=True,
                    tooltip="Pixels that tiles share with their neighbours.",
                ),
                io.Int.Input(
                    "temporal_size",
                    default=64,
                    min=8,
                    max=4096,
                    step=4,
                    advanced=True,
                    tooltip="Frames at a time, for VAEs of videos.",
                ),
                io.Int.Input(
                    "temporal_overlap",
                    default=8,
                    min=4,
                    max=4096,
                    step=4,
                    advanced=True,
                    tooltip="Frames that such pieces share.",
                ),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(
        cls,
        pixels: Tensor,
        vae: VAE | None,
        tile_size: int,
        overlap: int,
        temporal_size: int,
        temporal_overlap: int,
    ) -> io.NodeOutput:
        latent = present(vae, "VAE").encode_tiled(pixels, tile_x=tile_size, tile_y=tile_size, overlap=overlap)
        return io.NodeOutput({"samples": latent})


class VAEEncodeForInpaint(io.ComfyNode):
    """It goes with a denoise of 1; with less, SetLatentNoiseMask keeps what was there."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VAEEncodeForInpaint",
            display_name="VAE Encode (for Inpainting)",
            category="model/latent",
            description=(
                "Turns pictures into latents with what is masked taken out, for a model to paint there anew."
            ),
            v1_form=True,
            inputs=[
                io.Image.Input("pixels"),
                io.Vae.Input("vae"),
                io.Mask.Input("mask"),
                io.Int.Input(
                    "grow_mask_by",
                    default=6,
                    min=0,
                    max=64,
                    step=1,
                    tooltip="Pixels to widen the mask by, so that no seam shows.",
                ),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, pixels: Tensor, vae: VAE | None, mask: Tensor, grow_mask_by: int) -> io.NodeOutput:
        from comfyk_core_nodes.conditioning.inpaint import inpaint_latent

        return io.NodeOutput(inpaint_latent(vae, pixels, mask, grow_mask_by))


NODES = (
    VAEDecode,
    VAEDecodeTiled,
    VAEEncode,
    VAEEncodeTiled,
    VAEEncodeForInpaint,
)
