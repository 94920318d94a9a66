"""Text encoders as the model families use them: which layer, which norm, which pooled output, and prompt weights.

`TextEncoder` is one CLIP model with its habits, `TextEncoders` what a family has of them: one, or two side by side.
The attribute names (`clip_l`, `transformer`, `set_clip_options` ...) are the field's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from comfyk_core_nodes.text.clip_model import CLIPTextModel
from comfyk_core_nodes.text.tokenizer import END, START, Chunk

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Habits:
    """How a family uses a text encoder. `layer` None is the last one, else it counts from the end (-2)."""

    key: str
    quick_gelu: bool
    pad_token: int
    layer: int | None
    norm_hidden: bool
    """Whether the final norm is applied to an inner layer's output as well."""
    projected_pooled: bool


CLIP_L = Habits("clip_l", True, END, None, norm_hidden=True, projected_pooled=False)
CLIP_L_SDXL = Habits("clip_l", True, END, -2, norm_hidden=False, projected_pooled=True)
CLIP_H = Habits("clip_h", False, 0, -2, norm_hidden=True, projected_pooled=True)
CLIP_G = Habits("clip_g", False, 0, -2, norm_hidden=False, projected_pooled=True)


class TextEncoder(nn.Module):
    """One CLIP text model and how it is used. It computes in float32, whatever its weights are stored in."""

    def __init__(self, habits: Habits, sizes: Mapping[str, Any], device: Any = None) -> None:
        super().__init__()
        self.habits = habits
        self.transformer = CLIPTextModel(**sizes, quick_gelu=habits.quick_gelu, device=device)
        self.special_tokens = {"start": START, "end": END, "pad": habits.pad_token}
        self.reset_clip_options()

    @property
    def num_layers(self) -> int:
        return self.transformer.num_layers

    def reset_clip_options(self) -> None:
        self.layer_idx = self.habits.layer
        self.return_projected_pooled = self.habits.projected_pooled
        self.execution_device: torch.device | None = None

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        """`layer` (the family's own for one that the model has not got), `projected_pooled`, `execution_device`."""
        layer = options.get("layer", self.layer_idx)
        self.layer_idx = self.habits.layer if layer is None or abs(layer) > self.num_layers else layer
        self.return_projected_pooled = options.get("projected_pooled", self.return_projected_pooled)
        self.execution_device = options.get("execution_device", self.execution_device)

    def forward(self, tokens: Sequence[Sequence[int | Tensor]]) -> tuple[Tensor, Tensor]:
        """The hidden states `[B, T, D]` and the pooled output `[B, D]` of `B` token lists."""
        device = self.execution_device or self.transformer.get_input_embeddings().weight.device
        embeds, ends = self._embed(tokens, device)
        out = self.transformer(embeds, ends, self.layer_idx)
        hidden = out.last if out.hidden is None else out.hidden
        if out.hidden is not None and self.habits.norm_hidden:
            hidden = self.transformer.text_model.final_layer_norm(hidden)
        pooled = self.transformer.project(out.pooled) if self.return_projected_pooled else out.pooled
        return hidden.float(), pooled.float()

    def _embed(self, tokens: Sequence[Sequence[int | Tensor]], device: torch.device) -> tuple[Tensor, Tensor]:
        """The vectors of the token lists, and where each text ends: at its first end token."""
        table = self.transformer.get_input_embeddings()
        pad = self.special_tokens["pad"]
        numbers: list[list[int]] = []
        vectors: list[tuple[int, int, Tensor]] = []
        ends: list[int] = []
        for row, entries in enumerate(tokens):
            line: list[int] = []
            for entry in entries:
                if isinstance(entry, Tensor):
                    if entry.shape[-1] != self.transformer.width:
                        log.warning(
                            "an embedding of %d numbers does not fit a text encoder of %d; it is left out",
                            entry.shape[-1],
                            self.transformer.width,
                        )
                        continue
                    vectors.append((row, len(line), entry))
                    line.append(pad)
                else:
                    line.append(int(entry))
            line.extend([pad] * (len(entries) - len(line)))
            taken = {place for at, place, _ in vectors if at == row}
            end = (i for i, token in enumerate(line) if token == END and i not in taken)
            ends.append(next(end, len(line) - 1))
            numbers.append(line)
        embeds = table(torch.tensor(numbers, device=device), out_dtype=torch.float32)
        for row, place, vector in vectors:
            embeds[row, place] = vector.to(embeds)
        return embeds, torch.tensor(ends, device=device)

    def encode_token_weights(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
        """The chunks one after another `[1, chunks * T, D]`, and the pooled output `[1, D]` of the first.

        A token of weight `w` is moved to `empty + w * (token - empty)`, where `empty` is what an empty prompt has
        in its place.
        """
        weights = torch.tensor([[float(entry[1]) for entry in chunk] for chunk in chunks])
        tokens = [[entry[0] for entry in chunk] for chunk in chunks]
        weighted = bool((weights != 1.0).any())
        if weighted:
            length = max(len(chunk) for chunk in chunks)
            pad = self.special_tokens["pad"]
            tokens.append([START, END, *[pad] * (length - 2)])
        hidden, pooled = self(tokens)
        if weighted:
            empty = hidden[-1]
            hidden = hidden[:-1]
            by = weights.to(hidden)[..., None]
            hidden = torch.where(by == 1.0, hidden, (hidden - empty) * by + empty)
        return hidden.flatten(0, 1).unsqueeze(0), pooled[:1]


class TextEncoders(nn.Module):
    """The text encoders of a family, by their key: `clip_l`, `clip_h`, or `clip_l` and `clip_g` for SDXL."""

    manual_cast_dtype: torch.dtype = torch.float32

    def __init__(self, encoders: Mapping[str, TextEncoder]) -> None:
        super().__init__()
        self.keys = tuple(encoders)
        for key, encoder in encoders.items():
            self.add_module(key, encoder)

    def encoders(self) -> list[TextEncoder]:
        return [getattr(self, key) for key in self.keys]

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        for encoder in self.encoders():
            encoder.set_clip_options(options)

    def reset_clip_options(self) -> None:
        for encoder in self.encoders():
            encoder.reset_clip_options()

    def encode_token_weights(self, tokens: Mapping[str, Sequence[Chunk]]) -> tuple[Tensor, Tensor]:
        """`tokens` by the encoders' short names. Widths add up, the shorter length counts; the last one's pooled."""
        outputs = [
            getattr(self, key).encode_token_weights(tokens[key.removeprefix("clip_")]) for key in self.keys
        ]
        length = min(hidden.shape[1] for hidden, _ in outputs)
        return torch.cat([hidden[:, :length] for hidden, _ in outputs], dim=-1), outputs[-1][1]
