"""`CLIP`: text encoders with their tokenizer and patches, as nodes hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from comfyk_core_nodes.devices.device import intermediate_device
from comfyk_core_nodes.memory.manager import load_models_gpu
from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.text.encoders import TextEncoder, TextEncoders
from comfyk_core_nodes.text.tokenizer import Chunk, ClipTokenizer, Tokenizer
from comfyk_core_nodes.weights.assign import assign_weights
from comfyk_core_nodes.weights.layers import stored_layers
from comfyk_core_nodes.weights.mapped import drop_pages
from comfyk_core_nodes.weights.mapped_files import check_all_there

Tokens = Mapping[str, Sequence[Chunk]]


class CLIP:
    """What the CLIP sockets of nodes carry. `clone` shares the weights and lets patches and clip skip differ."""

    def __init__(self, cond_stage_model: TextEncoders, tokenizer: Tokenizer, patcher: ModelPatcher) -> None:
        self.cond_stage_model = cond_stage_model
        self.tokenizer = tokenizer
        self.patcher = patcher
        self.layer_idx: int | None = None
        self.tokenizer_options: dict[str, Any] = {}
        self.use_clip_schedule = False

    def clone(self) -> CLIP:
        copy = CLIP(self.cond_stage_model, self.tokenizer, self.patcher.clone())
        copy.layer_idx = self.layer_idx
        copy.tokenizer_options = dict(self.tokenizer_options)
        copy.use_clip_schedule = self.use_clip_schedule
        return copy

    def add_patches(self, patches: Any, strength_patch: float = 1.0, strength_model: float = 1.0) -> Any:
        return self.patcher.add_patches(patches, strength_patch, strength_model)

    def get_key_patches(self) -> Any:
        return self.patcher.get_key_patches()

    def clip_layer(self, layer_idx: int | None) -> None:
        """Clip skip: take the output of this layer, counted from the end (-1 is the last)."""
        self.layer_idx = layer_idx

    def set_tokenizer_option(self, name: str, value: Any) -> None:
        self.tokenizer_options[name] = value

    def tokenize(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> dict[str, list[Chunk]]:
        """The token lists of a prompt for each text encoder; see `tokenizer`."""
        options = {**self.tokenizer_options, **kwargs.pop("tokenizer_options", {})}
        return self.tokenizer.tokenize_with_weights(text, return_word_ids, **options, **kwargs)

    def load_model(self) -> ModelPatcher:
        """Put the text encoders on their device."""
        load_models_gpu([self.patcher])
        return self.patcher

    def encode_from_tokens(
        self, tokens: Tokens, return_pooled: bool | str = False, return_dict: bool = False
    ) -> Any:
        """The conditioning `[1, T, D]` of tokens.

        With `return_pooled` a pair with the pooled output `[1, P]` (`"unprojected"`: before the projection), with
        `return_dict` both in a dictionary as `cond` and `pooled_output`.
        """
        self.load_model()
        model = self.cond_stage_model
        model.reset_clip_options()
        options: dict[str, Any] = {"execution_device": self.patcher.load_device}
        if self.layer_idx is not None:
            options["layer"] = self.layer_idx
        if return_pooled == "unprojected":
            options["projected_pooled"] = False
        model.set_clip_options(options)
        cond, pooled = (part.to(intermediate_device()) for part in model.encode_token_weights(tokens))
        for _, layer in stored_layers(model):
            drop_pages(layer.weight)
        check_all_there()
        if return_dict:
            return {"cond": cond, "pooled_output": pooled}
        return (cond, pooled) if return_pooled else cond

    def encode_from_tokens_scheduled(
        self,
        tokens: Tokens,
        unprojected: bool = False,
        add_dict: Mapping[str, Any] | None = None,
        show_pbar: bool = True,
    ) -> list[list[Any]]:
        """Conditioning as nodes pass it on: `[[cond, {"pooled_output": pooled, **add_dict}]]`."""
        out = self.encode_from_tokens(tokens, "unprojected" if unprojected else True, return_dict=True)
        cond = out.pop("cond")
        return [[cond, {**out, **(add_dict or {})}]]

    def encode(self, text: str) -> Tensor:
        return self.encode_from_tokens(self.tokenize(text))

    def load_sd(self, state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
        """Take weights named as in the whole model (`clip_l.transformer...`). Returns missing and left-over keys."""
        return assign_weights(self.cond_stage_model, state)

    def get_sd(self) -> dict[str, Tensor]:
        return dict(self.cond_stage_model.state_dict())


def tokenizer_for(model: TextEncoders, embedding_directories: Sequence[str]) -> Tokenizer:
    """The tokenizers of these text encoders; `g` alone brings `l` along, as workflows for SDXL send both."""
    encoders: dict[str, ClipTokenizer] = {}
    for encoder in model.encoders():
        encoders[encoder.habits.key.removeprefix("clip_")] = _clip_tokenizer(encoder, embedding_directories)
    if set(encoders) == {"g"}:
        encoders["l"] = ClipTokenizer("clip_l", 768, 49407, tuple(embedding_directories))
    return Tokenizer(encoders)


def _clip_tokenizer(encoder: TextEncoder, directories: Sequence[str]) -> ClipTokenizer:
    habits = encoder.habits
    return ClipTokenizer(habits.key, encoder.transformer.width, habits.pad_token, tuple(directories))
