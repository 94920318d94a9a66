"""Reading LoRA files into patches: kohya, diffusers, PEFT, LyCORIS (LoHa, LoKr, IA3, full, norms, GLoRA, OFT, DoRA)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from comfyk_core_nodes.families.lora_keys import plain_lora_keys
from comfyk_core_nodes.memory.adapters import WeightAdapter
from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.memory.residency import residency_of
from comfyk_core_nodes.text.lora_keys import KeyMap, text_lora_keys
from comfyk_core_nodes.weights.contents import LORA, describe
from comfyk_core_nodes.weights.files import ModelFileError

log = logging.getLogger(__name__)

LoraFile = Mapping[str, Tensor]
Patches = dict[str, Any]

_UP_DOWN = (
    (".lora_up.weight", ".lora_down.weight"),
    ("_lora.up.weight", "_lora.down.weight"),
    (".lora_B.weight", ".lora_A.weight"),
    (".lora.up.weight", ".lora.down.weight"),
    (".lora_B", ".lora_A"),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    (".lora_B.default.weight", ".lora_A.default.weight"),
)
"""How the two factors of a LoRA are called, by trainer."""

_SHOWN = 5
"""Keys that are named in a message."""


_FOR_TEXT = ("lora_te", "lora_prior_te", "text_encoder")
"""How the keys for text encoders begin, in the spellings of every trainer."""


class LoraError(ModelFileError):
    """A file is no LoRA, or none for this model. The text says what was expected and what was found."""


class TextEncoders(Protocol):
    """What a CLIP object has that a LoRA needs."""

    cond_stage_model: Any

    def clone(self) -> Any: ...
    def add_patches(
        self, patches: Mapping[Any, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]: ...


M = TypeVar("M", bound="ModelPatcher | None")
C = TypeVar("C", bound="TextEncoders | None")


def apply_lora(
    model: M,
    clip: C,
    lora: LoraFile,
    strength_model: float,
    strength_clip: float,
    name: str | os.PathLike[str] = "the LoRA",
) -> tuple[M, C]:
    """Clones of the model and the text encoders with a LoRA added, each at its strength. Either may be None.

    `name` is what messages call the file: its path, or a name. Keys that no weight answers to are logged, and so is
    a file for text encoders where there is only a model, or the other way round, which changes nothing. Raises
    LoraError when no weight answers to any key, or when a tensor cannot be used.
    """
    names: KeyMap = {}
    if model is not None:
        config = getattr(model.model, "model_config", None)
        keys = plain_lora_keys if config is None else config.family.lora_keys
        names.update(keys(model.model))
    if clip is not None:
        names.update(text_lora_keys(clip.cond_stage_model))
    patches = load_lora(lora, names, name=name)
    if not patches:
        other = _only_for(lora)
        if other is None or (model is not None if other == "the model" else clip is not None):
            raise LoraError(name, f"a LoRA for {_parts(model, clip)}", _found(lora))
        log.warning("%s: changes nothing here: all its %d keys are for %s", Path(name).name, len(lora), other)
    parts = [] if model is None else [model.model]
    parts += [] if clip is None else [clip.cond_stage_model]
    weights = [residency_of(part).home_state_dict(part) for part in parts]
    _check_shapes(patches, weights, name, _parts(model, clip))
    with_model: Any = None
    with_clip: Any = None
    if model is not None:
        with_model = model.clone()
        with_model.add_patches(patches, strength_model)
    if clip is not None:
        with_clip = clip.clone()
        with_clip.add_patches(patches, strength_clip)
    return with_model, with_clip


def _check_shapes(
    patches: Patches, weights: Sequence[Mapping[str, Tensor]], name: str | os.PathLike[str], target: str
) -> None:
    """Raise LoraError when no LoRA of the file has the shape of its weight: it is for another kind of model.

    Single ones that do not fit are left out, with a warning, when the patches are applied.
    """
    wrong: list[str] = []
    for key, patch in patches.items():
        if not isinstance(patch, WeightAdapter) or patch.name != "lora":
            return
        up, down, _, mid = patch.weights[:4]
        if min(up.dim(), down.dim()) < 2:
            continue
        inputs = down[0].numel() * (1 if mid is None else mid[0, 0].numel())
        for weight in (each[key] for each in weights if key in each):
            if up.shape[0] == weight.shape[0] and inputs == weight[0].numel():
                return
            wrong.append(f"{[up.shape[0], inputs]} for {key} of {list(weight.shape)}")
    if wrong:
        raise LoraError(name, f"a LoRA for {target}", f"one for another family of models: {_some(wrong)}")


def load_lora(
    lora: LoraFile,
    to_load: Mapping[str, Any],
    log_missing: bool = True,
    name: str | os.PathLike[str] = "the LoRA",
) -> Patches:
    """The patches that a LoRA file holds, for `ModelPatcher.add_patches`.

    `to_load` says which weight each name in the file means (`Family.lora_keys`); for a part of a weight it is
    `(key, offset)`. Keys that no name answers to are logged. Raises LoraError for a tensor that cannot be used.
    """
    patches: Patches = {}
    used: set[str] = set()
    for prefix, target in to_load.items():
        found = _Entry(lora, prefix, name)
        adapter = found.adapter()
        if adapter is not None:
            patches[target] = adapter
        for ending, kind in ((".w_norm", "diff"), (".diff", "diff"), (".set_weight", "set")):
            if (tensor := found.take(ending)) is not None:
                patches[target] = (kind, (tensor,))
        for ending in (".b_norm", ".diff_b"):
            if (tensor := found.take(ending)) is not None:
                patches[f"{target.removesuffix('.weight')}.bias"] = ("diff", (tensor,))
        used |= found.used
    unused = [key for key in lora if key not in used]
    if unused and patches and log_missing:
        log.warning(
            "%s: %d of %d keys fit nothing in this model: %s",
            *(Path(name).name, len(unused), len(lora), _some(unused)),
        )
    return patches


class _Entry:
    """The keys of a file that begin with one name, and which of them were used."""

    def __init__(self, lora: LoraFile, prefix: str, file: str | os.PathLike[str]) -> None:
        self._lora = lora
        self._prefix = prefix
        self._file = file
        self.used: set[str] = set()

    def take(self, ending: str) -> Tensor | None:
        key = self._prefix + ending
        tensor = self._lora.get(key)
        if tensor is not None:
            self.used.add(key)
        return tensor

    def need(self, ending: str) -> Tensor:
        """As `take`; LoraError when it is not there."""
        tensor = self.take(ending)
        if tensor is None:
            beside = _some(sorted(self.used))
            raise LoraError(self._file, f"{self._prefix}{ending} beside {beside}", "none: it is damaged")
        return tensor

    def number(self, ending: str) -> float | None:
        tensor = self.take(ending)
        if tensor is None:
            return None
        if tensor.numel() != 1:
            shape = list(tensor.shape)
            raise LoraError(self._file, f"one number in {self._prefix}{ending}", f"the shape {shape}")
        return float(tensor.item())

    def adapter(self) -> WeightAdapter | None:
        weights = self._lora_weights() or self._lycoris_weights()
        return None if weights is None else WeightAdapter(*weights, self.used)

    def _lora_weights(self) -> tuple[str, tuple[Any, ...]] | None:
        for up, down in _UP_DOWN:
            if (factor := self.take(up)) is not None:
                mid = self.take(".lora_mid.weight") if up == ".lora_up.weight" else None
                return "lora", (factor, self.need(down), self._alpha(), mid, self._dora(), None)
        return None

    def _lycoris_weights(self) -> tuple[str, tuple[Any, ...]] | None:
        if (w1_a := self.take(".hada_w1_a")) is not None:
            w1_b, w2_a, w2_b = (self.need(f".hada_{part}") for part in ("w1_b", "w2_a", "w2_b"))
            t1 = self.take(".hada_t1")
            t2 = None if t1 is None else self.need(".hada_t2")
            return "loha", (w1_a, w1_b, self._alpha(), w2_a, w2_b, t1, t2, self._dora())
        if any(f"{self._prefix}.lokr_{part}" in self._lora for part in ("w1", "w2", "w1_a", "w2_a")):
            w1, w2, t2 = (self.take(f".lokr_{part}") for part in ("w1", "w2", "t2"))
            w1_a, w1_b = (self.need(f".lokr_w1_{part}") if w1 is None else None for part in "ab")
            w2_a, w2_b = (self.need(f".lokr_w2_{part}") if w2 is None else None for part in "ab")
            return "lokr", (w1, w2, self._alpha(), w1_a, w1_b, w2_a, w2_b, t2, self._dora())
        if (a1 := self.take(".a1.weight")) is not None:
            others = [self.need(f".{part}.weight") for part in ("a2", "b1", "b2")]
            return "glora", (a1, *others, self._alpha(), self._dora())
        if (on_input := self.number(".on_input")) is not None:
            return "ia3", (self.need(".weight"), bool(on_input))
        blocks = self._lora.get(f"{self._prefix}.oft_blocks")
        if blocks is not None and blocks.dim() in (3, 4):
            self.take(".oft_blocks")
            kind = "oft" if blocks.dim() == 3 else "boft"
            return kind, (blocks, self.take(".rescale"), self._alpha(), self._dora())
        return None

    def _alpha(self) -> float | None:
        return self.number(".alpha")

    def _dora(self) -> Tensor | None:
        return self.take(".dora_scale")


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _parts(model: ModelPatcher | None, clip: TextEncoders | None) -> str:
    """What a LoRA is wanted for, in words."""
    if model is None:
        return "the text encoders"
    config = getattr(model.model, "model_config", None)
    family = "this model" if config is None else config.title
    return family if clip is None else f"{family} and its text encoders"


def _only_for(lora: LoraFile) -> str | None:
    """For which part of a model all keys of a LoRA are. None for one that is for both, or that is no LoRA."""
    if describe(lora) != LORA:
        return None
    kinds = {"text encoders" if key.startswith(_FOR_TEXT) else "the model" for key in lora}
    return kinds.pop() if len(kinds) == 1 else None


def _found(lora: LoraFile) -> str:
    """What a file is of which nothing fits."""
    found = describe(lora)
    if found != LORA:
        return found
    return f"one for another family of models, whose keys are such as {_some(list(lora))}"
