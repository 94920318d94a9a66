"""Latents as batches: taking items out, repeating them, and regrouping lists of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from comfyk_core_nodes.images.resize import resize
from comfyk_core_nodes.latents.arithmetic import match_size

if TYPE_CHECKING:
    from torch import Tensor

Latent = dict[str, Any]


def _masks_of_items(mask: Tensor, batch: int) -> Tensor:
    """`[batch, 1, ..., H, W]`: a noise mask of any shape, with one item for each of the latent's."""
    from comfyk_core_nodes.images.batch import repeat_to_batch

    if mask.ndim < 4:
        mask = mask.reshape(-1, 1, *mask.shape[-2:])
    return repeat_to_batch(mask, batch)


def _indexes(latent: Mapping[str, Any], first: int = 0) -> list[int]:
    """Which noise each item gets; counted from `first` where the latent does not say."""
    batch = latent["samples"].shape[0]
    return list(latent.get("batch_index", range(first, first + batch)))


def from_batch(latent: Mapping[str, Any], index: int, length: int) -> Latent:
    """`length` items from `index` on (a negative one counts from the end), as many as there are, at least one.

    They keep the noise that they have in the whole batch.
    """
    samples = latent["samples"]
    batch = samples.shape[0]
    start = max(0, min(batch - 1, index + batch if index < 0 else index))
    end = min(batch, start + length)
    taken: Latent = {**latent, "samples": samples[start:end].clone()}
    mask = latent.get("noise_mask")
    if mask is not None:
        one_for_all = mask.shape[0] == 1
        taken["noise_mask"] = mask.clone() if one_for_all else _masks_of_items(mask, batch)[start:end].clone()
    taken["batch_index"] = _indexes(latent)[start:end]
    return taken


def repeat(latent: Mapping[str, Any], amount: int) -> Latent:
    """All items `amount` times over, one whole batch after the other.

    Where the latent says which noise its items get, each repetition gets the next ones.
    """
    samples = latent["samples"]
    repeated: Latent = {**latent, "samples": samples.repeat(amount, *[1] * (samples.ndim - 1))}
    mask = latent.get("noise_mask")
    if mask is not None and mask.shape[0] > 1:
        mask = _masks_of_items(mask, samples.shape[0])
        repeated["noise_mask"] = mask.repeat(amount, *[1] * (mask.ndim - 1))
    if "batch_index" in latent:
        indexes = latent["batch_index"]
        step = max(indexes) - min(indexes) + 1
        repeated["batch_index"] = [index + step * turn for turn in range(amount) for index in indexes]
    return repeated


def join(first: Mapping[str, Any], second: Mapping[str, Any]) -> Latent:
    """`second` behind `first`, scaled to its size. Masks are those of the first, as it is in ComfyUI."""
    import torch

    samples = first["samples"], match_size(second["samples"], first["samples"])
    if samples[0].shape[1:] != samples[1].shape[1:]:
        raise ValueError(
            f"latents of the shapes {list(samples[0].shape)} and {list(samples[1].shape)} cannot be one batch"
        )
    return {**first, "samples": torch.cat(samples), "batch_index": _indexes(first) + _indexes(second)}


def rebatch(latents: Iterable[Mapping[str, Any]], batch_size: int) -> list[Latent]:
    """The same items in the same order, in batches of `batch_size`; the last of a size may have fewer.

    Neighbours of the same shape are put together. A latent that does not say which noise its items get gets that
    of their place in the list. Of masks only those that leave something out are kept.
    """
    return [
        batch
        for _, group in groupby(_numbered(latents), lambda latent: latent["samples"].shape[1:])
        for batch in _slices(list(group), batch_size)
    ]


def _numbered(latents: Iterable[Mapping[str, Any]]) -> Iterator[Latent]:
    seen = 0
    for latent in latents:
        indexes = _indexes(latent, seen)
        seen += len(indexes)
        yield {**latent, "batch_index": indexes}


def _slices(group: Sequence[Latent], batch_size: int) -> Iterator[Latent]:
    import torch

    samples = torch.cat([latent["samples"] for latent in group])
    indexes = [index for latent in group for index in latent["batch_index"]]
    masks = _joined_masks(group)
    for start in range(0, len(samples), batch_size):
        end = start + batch_size
        batch: Latent = {"samples": samples[start:end], "batch_index": indexes[start:end]}
        if masks is not None and masks[start:end].mean() != 1.0:
            batch["noise_mask"] = masks[start:end]
        yield batch


def _joined_masks(group: Sequence[Latent]) -> Tensor | None:
    """One mask for each item of the group, 1 where there is none, in the size of the first; None for none."""
    import torch

    known = [latent["noise_mask"] for latent in group if latent.get("noise_mask") is not None]
    if not known:
        return None
    like = _masks_of_items(known[0], 1)
    masks = []
    for latent in group:
        mask, batch = latent.get("noise_mask"), latent["samples"].shape[0]
        if mask is None:
            mask = torch.ones_like(like)
        mask = _masks_of_items(mask, batch)
        if mask.shape[-2:] != like.shape[-2:]:
            mask = resize(mask, like.shape[-1], like.shape[-2], "bilinear")
        masks.append(mask)
    return torch.cat(masks)
