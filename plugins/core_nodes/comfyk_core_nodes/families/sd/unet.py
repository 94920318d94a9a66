"""The UNet of Stable Diffusion 1.x, 2.x and SDXL (Rombach et al. 2021, arXiv:2112.10752; Podell et al. 2023).

`UNetModel` is built from the numbers that `detection.unet_config` reads from a checkpoint's keys; its parameters are
named as in the original single-file checkpoints. ControlNets are made of the same blocks (`encoder_blocks`).
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from comfyk import check_interrupted
from torch import Tensor, nn

from comfyk_core_nodes.families.sd.transformer import SpatialTransformer
from comfyk_core_nodes.memory.extensions import wrapped
from comfyk_core_nodes.weights.attention import TransformerOptions
from comfyk_core_nodes.weights.layers import Conv2d, Embedding, GroupNorm, Linear
from comfyk_core_nodes.weights.norm_groups import USUAL, normalize_in

log = logging.getLogger(__name__)

Control = dict[str, list[Tensor | None]]


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Cosines, then sines, of `timesteps` `[B]` at `dim // 2` frequencies: `[B, dim]` (Vaswani et al. 2017)."""
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps[:, None].float() * torch.exp(-math.log(max_period) * steps / half)[None]
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(embedding, (0, dim % 2))


class TimestepBlock(nn.Module):
    """A layer that is given the embedding of the timestep as well."""


class ResBlock(TimestepBlock):
    """Two convolutions around the timestep embedding: `[B, C, H, W]`, `[B, E]` to `[B, C', H, W]`."""

    def __init__(self, channels: int, embedding: int, out_channels: int, device: Any = None) -> None:
        super().__init__()
        self.channels = channels
        self.out_channels = out_channels
        self.in_layers = nn.Sequential(
            GroupNorm(32, channels, device=device),
            nn.SiLU(inplace=True),
            Conv2d(channels, out_channels, 3, padding=1, device=device),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), Linear(embedding, out_channels, device=device))
        self.out_layers = nn.Sequential(
            GroupNorm(32, out_channels, device=device),
            nn.SiLU(inplace=True),
            nn.Identity(),
            Conv2d(out_channels, out_channels, 3, padding=1, device=device),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if out_channels != channels:
            self.skip_connection = Conv2d(channels, out_channels, 1, device=device)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x)
        h = h + self.emb_layers(emb).to(h.dtype)[:, :, None, None]
        return self.out_layers(h) + self.skip_connection(x)


class Downsample(nn.Module):
    """Half the height and width."""

    def __init__(self, channels: int, device: Any = None) -> None:
        super().__init__()
        self.op = Conv2d(channels, channels, 3, stride=2, padding=1, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Twice the height and width, or `output_shape` `[B, C, H, W]` where the halving had rounded."""

    def __init__(self, channels: int, device: Any = None) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1, device=device)

    def forward(self, x: Tensor, output_shape: torch.Size | None = None) -> Tensor:
        size = [x.shape[2] * 2, x.shape[3] * 2] if output_shape is None else list(output_shape[2:])
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class TimestepEmbedSequential(nn.Sequential):
    """Layers one after another, each given what it takes of the timestep, the text and the patches."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Tensor,
        emb: Tensor,
        context: Any = None,
        transformer_options: TransformerOptions | None = None,
        output_shape: torch.Size | None = None,
    ) -> Tensor:
        options = {} if transformer_options is None else transformer_options
        handlers = options.get("patches", {}).get("forward_timestep_embed_patch", ())
        for layer in self:
            handler = next((call for kind, call in handlers if isinstance(layer, kind)), None)
            if handler is not None:
                x = handler(layer, x, emb, context, options, output_shape, None, None, None)
            elif isinstance(layer, TimestepBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context, options)
                options["transformer_index"] = options.get("transformer_index", 0) + 1
            elif isinstance(layer, Upsample):
                x = layer(x, output_shape)
            else:
                x = layer(x)
        return x


@dataclass(slots=True)
class UNetShape:
    """The numbers of a UNet, with the field's names. The lists of depths are used up from the front and the end."""

    in_channels: int
    model_channels: int
    out_channels: int
    num_res_blocks: list[int]
    channel_mult: list[int]
    transformer_depth: list[int]
    transformer_depth_middle: int
    transformer_depth_output: list[int] = field(default_factory=list)
    context_dim: int | None = None
    use_linear_in_transformer: bool = False
    num_heads: int = -1
    num_head_channels: int = 64
    adm_in_channels: int | None = None
    num_classes: int | str | None = None
    disable_self_attentions: list[bool] | None = None
    norm_groups: int = USUAL

    def transformer(self, channels: int, depth: int, level: int | None, device: Any) -> SpatialTransformer:
        if self.num_head_channels == -1:
            heads = self.num_heads
        else:
            heads = max(1, channels // self.num_head_channels)
        disabled = self.disable_self_attentions or []
        return SpatialTransformer(
            channels,
            heads,
            channels // heads,
            depth,
            self.context_dim,
            self.use_linear_in_transformer,
            disable_self_attn=level is not None and level < len(disabled) and disabled[level],
            device=device,
        )


def embedding_layers(shape: UNetShape, device: Any) -> tuple[nn.Sequential, nn.Module | None]:
    """The layers for the timestep, `[B, model_channels] -> [B, E]`, and those for classes or the vector `y`."""
    width = shape.model_channels * 4
    time = nn.Sequential(
        Linear(shape.model_channels, width, device=device), nn.SiLU(), Linear(width, width, device=device)
    )
    label: nn.Module | None = None
    if isinstance(shape.num_classes, int):
        label = Embedding(shape.num_classes, width, device=device)
    elif shape.num_classes == "sequential":
        assert shape.adm_in_channels is not None
        layers = (
            Linear(shape.adm_in_channels, width, device=device),
            nn.SiLU(),
            Linear(width, width, device=device),
        )
        label = nn.Sequential(nn.Sequential(*layers))
    return time, label


def encoder_blocks(shape: UNetShape, device: Any) -> tuple[nn.ModuleList, list[int]]:
    """The blocks on the way down, and the channels that each gives out."""
    embedding = shape.model_channels * 4
    channels = shape.model_channels
    blocks = [TimestepEmbedSequential(Conv2d(shape.in_channels, channels, 3, padding=1, device=device))]
    widths = [channels]
    depths = iter(shape.transformer_depth)
    for level, mult in enumerate(shape.channel_mult):
        for _ in range(shape.num_res_blocks[level]):
            layers: list[nn.Module] = [ResBlock(channels, embedding, mult * shape.model_channels, device)]
            channels = mult * shape.model_channels
            depth = next(depths)
            if depth > 0:
                layers.append(shape.transformer(channels, depth, level, device))
            blocks.append(TimestepEmbedSequential(*layers))
            widths.append(channels)
        if level != len(shape.channel_mult) - 1:
            blocks.append(TimestepEmbedSequential(Downsample(channels, device)))
            widths.append(channels)
    return nn.ModuleList(blocks), widths


def middle_block(shape: UNetShape, channels: int, device: Any) -> TimestepEmbedSequential | None:
    """The block at the bottom: none where `transformer_depth_middle` is -2, one ResBlock where it is -1."""
    embedding = shape.model_channels * 4
    if shape.transformer_depth_middle < -1:
        return None
    layers: list[nn.Module] = [ResBlock(channels, embedding, channels, device)]
    if shape.transformer_depth_middle >= 0:
        layers.append(shape.transformer(channels, shape.transformer_depth_middle, None, device))
        layers.append(ResBlock(channels, embedding, channels, device))
    return TimestepEmbedSequential(*layers)


def decoder_blocks(shape: UNetShape, widths: list[int], device: Any) -> nn.ModuleList:
    """The blocks on the way up; each takes the output of one on the way down (`widths`) besides its own input."""
    embedding = shape.model_channels * 4
    channels = widths[-1]
    skips = list(widths)
    depths = list(shape.transformer_depth_output)
    blocks = []
    for level, mult in reversed(list(enumerate(shape.channel_mult))):
        for index in range(shape.num_res_blocks[level] + 1):
            out = mult * shape.model_channels
            layers: list[nn.Module] = [ResBlock(channels + skips.pop(), embedding, out, device)]
            channels = out
            depth = depths.pop()
            if depth > 0:
                layers.append(shape.transformer(channels, depth, level, device))
            if level and index == shape.num_res_blocks[level]:
                layers.append(Upsample(channels, device))
            blocks.append(TimestepEmbedSequential(*layers))
    return nn.ModuleList(blocks)


def apply_control(h: Tensor, control: Control | None, name: str) -> Tensor:
    """Add the next residual of `control[name]`, which is used up from its end. A wrong size is only logged."""
    residuals = None if control is None else control.get(name)
    residual = residuals.pop() if residuals else None
    if residual is None:
        return h
    try:
        return h + residual.to(h)
    except RuntimeError:
        log.warning("a control of shape %s does not fit %s; it is left out", residual.shape, h.shape)
        return h


class UNetModel(nn.Module):
    """The whole UNet; `config` has the fields of `UNetShape`."""

    def __init__(self, device: Any = None, **config: Any) -> None:
        super().__init__()
        shape = UNetShape(**config)
        self.in_channels = shape.in_channels
        self.model_channels = shape.model_channels
        self.out_channels = shape.out_channels
        self.num_classes = shape.num_classes
        self.dtype = torch.float32
        """The dtype of the stored weights; the loader sets it."""
        self.time_embed, label = embedding_layers(shape, device)
        if label is not None:
            self.label_emb = label
        self.input_blocks, widths = encoder_blocks(shape, device)
        self.middle_block = middle_block(shape, widths[-1], device)
        self.output_blocks = decoder_blocks(shape, widths, device)
        self.out = nn.Sequential(
            GroupNorm(32, shape.model_channels, device=device),
            nn.SiLU(inplace=True),
            Conv2d(shape.model_channels, shape.out_channels, 3, padding=1, device=device),
        )
        normalize_in(self, shape.norm_groups)

    def embed(
        self, x: Tensor, timesteps: Tensor, y: Tensor | None, options: TransformerOptions | None = None
    ) -> Tensor:
        """The embedding `[B, E]` of `timesteps` `[B]` and, for the models that take it, of `y` `[B, A]` or `[B]`."""
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(x.dtype))
        options = {} if options is None else options
        for patch in options.get("patches", {}).get("emb_patch", ()):
            emb = patch(emb, self.model_channels, options)
        if self.num_classes is None:
            return emb
        if y is None:
            raise ValueError(
                "this model takes a vector besides the text (size, pooled text ...): y is missing"
            )
        if isinstance(self.label_emb, Embedding):
            return emb + self.label_emb(y.long(), out_dtype=emb.dtype)
        return emb + self.label_emb(y)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Any = None,
        y: Tensor | None = None,
        control: Control | None = None,
        transformer_options: TransformerOptions | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """`[B, C, H, W]` at `timesteps` `[B]`, with `context` `[B, T, D]`, to `[B, C', H, W]`.

        `control` has lists of residuals for `input`, `middle` and `output`; see `apply_control`. Unknown keywords
        are conditions of other models, and are ignored. Raises `comfyk.context.Interrupted` between two blocks when
        the job was asked to stop.
        """
        run = wrapped("diffusion_model", transformer_options, self._forward, self)
        return run(x, timesteps, context, y, control, transformer_options, **kwargs)

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Any = None,
        y: Tensor | None = None,
        control: Control | None = None,
        transformer_options: TransformerOptions | None = None,
        **kwargs: Any,
    ) -> Tensor:
        options = {} if transformer_options is None else transformer_options
        options["original_shape"] = list(x.shape)
        options["transformer_index"] = 0
        patches = options.get("patches", {})
        emb = self.embed(x, timesteps, y, options)

        skips: list[Tensor] = []
        h = x.contiguous(memory_format=torch.channels_last)
        for number, block in enumerate(self.input_blocks):
            check_interrupted()
            options["block"] = ("input", number)
            h = apply_control(block(h, emb, context, options), control, "input")
            for patch in patches.get("input_block_patch", ()):
                h = patch(h, options)
            skips.append(h)
            for patch in patches.get("input_block_patch_after_skip", ()):
                h = patch(h, options)

        check_interrupted()
        options["block"] = ("middle", 0)
        if self.middle_block is not None:
            h = self.middle_block(h, emb, context, options)
        h = apply_control(h, control, "middle")
        if "middle_block_after_patch" in patches:
            given = {"x": x, "emb": emb, "context": context, "y": y, "timesteps": timesteps}
            for patch in patches["middle_block_after_patch"]:
                h = patch({"h": h, **given, "transformer_options": options})["h"]

        for number, block in enumerate(self.output_blocks):
            check_interrupted()
            options["block"] = ("output", number)
            skip: Tensor | None = apply_control(skips.pop(), control, "output")
            for patch in patches.get("output_block_patch", ()):
                h, skip = patch(h, skip, options)
            if skip is not None:
                h = torch.cat([h, skip], dim=1)
            h = block(h, emb, context, options, skips[-1].shape if skips else None)
        return self.out(h.to(x.dtype))
