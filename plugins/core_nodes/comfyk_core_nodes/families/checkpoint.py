"""From a file to models: whole checkpoints, and files of one network, of whichever family.

`load_checkpoint`, `load_diffusion_model`, `load_clip` and `load_vae` map the file, ask the families what it holds,
build the networks without memory for weights, and make the file's tensors their weights. Nothing is copied or cast
until a model is used. What cannot be loaded raises `ModelFileError`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from comfyk_core_nodes.families.family import Layout, ModelConfig, TextChain, Weights
from comfyk_core_nodes.families.registry import Families, model_families
from comfyk_core_nodes.memory.managed import managed_in_sampling
from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.text.clip import CLIP
from comfyk_core_nodes.vae.vae import VAE
from comfyk_core_nodes.weights.assign import fill
from comfyk_core_nodes.weights.contents import describe
from comfyk_core_nodes.weights.files import ModelFileError, load_torch_file
from comfyk_core_nodes.weights.state_dict import StateDict, stored_dtype, with_prefix

Path = str | os.PathLike[str]


@dataclass
class Checkpoint:
    """What a checkpoint held. A part is None where the file has none, or it was not asked for."""

    model: ModelPatcher | None = None
    clip: CLIP | None = None
    vae: VAE | None = None
    clip_vision_state: StateDict = field(default_factory=dict)
    """The weights of the CLIP vision model that unCLIP checkpoints have, in OpenCLIP's layout."""


def load_checkpoint(
    path: Path,
    embedding_directories: Sequence[str] = (),
    *,
    output_model: bool = True,
    output_clip: bool = True,
    output_vae: bool = True,
    model_options: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """The models in a single-file checkpoint. `model_options` as for `load_diffusion_model`."""
    families = model_families()
    state, metadata = load_torch_file(path)
    network = families.find_network(state)
    if network is None:
        raise ModelFileError(path, families.checkpoints(), describe(state))
    layout, weights = network
    config = _model_config(path, families, layout, weights, state, metadata)
    family = config.family
    found = Checkpoint()
    try:
        if output_model:
            found.model = _diffusion_model(config, weights, model_options or {})
        if output_vae and any(key.startswith("first_stage_model.") for key in state):
            found.vae = VAE(with_prefix(state, "first_stage_model."), metadata=metadata)
        if output_clip and family.text is not None:
            texts = family.text.in_checkpoint(state)
            if texts:
                found.clip = family.text.build(texts, embedding_directories)
    except ValueError as error:
        raise ModelFileError(path, f"a checkpoint of {family.title}", str(error)) from error
    if family.clip_vision_prefix is not None:
        found.clip_vision_state = with_prefix(state, family.clip_vision_prefix)
    return found


def load_diffusion_model(path: Path, model_options: Mapping[str, Any] | None = None) -> ModelPatcher:
    """The diffusion model in a file of its own (in its own layout or another program's), or in a checkpoint.

    `model_options["dtype"]` is the dtype to compute in, in place of the device's best.
    """
    families = model_families()
    state, metadata = load_torch_file(path)
    network = families.find_network(state, alone=True)
    if network is None:
        raise ModelFileError(path, families.networks(), describe(state))
    layout, weights = network
    config = _model_config(path, families, layout, weights, state, metadata)
    try:
        return _diffusion_model(config, weights, model_options or {})
    except ValueError as error:
        raise ModelFileError(path, f"a {layout.network} of {config.title}", str(error)) from error


def load_clip(paths: Sequence[Path], embedding_directories: Sequence[str] = ()) -> CLIP:
    """The text encoders in files of their own, one file each: CLIP-L for Stable Diffusion 1.x, two for SDXL ..."""
    families = model_families()
    texts: dict[str, StateDict] = {}
    chain: TextChain | None = None
    for path in paths:
        state, _ = load_torch_file(path)
        told = families.tell_text_encoder(state)
        if told is None:
            raise ModelFileError(path, "a CLIP text encoder", describe(state))
        chain, key, text = told
        if key in texts:
            raise ModelFileError(path, "two different text encoders", f"{key} for the second time")
        texts[key] = text
    chain = families.text_chain_of(texts) or chain
    if chain is None:
        raise ValueError("no file of a text encoder was given")
    try:
        return chain.build(texts, embedding_directories)
    except ValueError as error:
        names = " and ".join(str(path) for path in paths)
        raise ModelFileError(names, "CLIP text encoders", str(error)) from error


def load_vae(path: Path) -> VAE:
    """The autoencoder in a file of its own (original or diffusers layout, TAESD), or in a checkpoint."""
    state, metadata = load_torch_file(path)
    try:
        return VAE(state, metadata=metadata)
    except ValueError as error:
        raise ModelFileError(path, "an autoencoder (VAE)", f"{describe(state)}; {error}") from error


def _model_config(
    path: Path,
    families: Families,
    layout: Layout,
    network: Weights,
    file: Weights,
    metadata: Mapping[str, str],
) -> ModelConfig:
    try:
        sizes = layout.sizes(network)
        config = None if sizes is None else families.config(layout, sizes, network, file, metadata)
    except (KeyError, IndexError, ZeroDivisionError, ValueError) as error:
        expected = f"a complete {layout.network}"
        raise ModelFileError(path, expected, f"one whose {error} does not fit the rest") from error
    if config is None:
        raise ModelFileError(path, f"a {layout.network} of {layout.title}", f"the sizes {sizes}")
    return config


def _diffusion_model(config: ModelConfig, weights: Weights, options: Mapping[str, Any]) -> ModelPatcher:
    what = f"the {config.family.layout.network}"
    try:
        model = config.family.model(config, "meta")
    except (TypeError, StopIteration, IndexError, ZeroDivisionError, AssertionError, RuntimeError) as error:
        raise ValueError(f"{what}'s sizes do not fit together ({error})") from error
    fill(model.diffusion_model, weights, what)
    model.diffusion_model.dtype = stored_dtype(weights)
    return managed_in_sampling(
        model,
        weights,
        options.get("dtype"),
        config.supported_inference_dtypes,
        options.get("load_device"),
        options.get("offload_device"),
    )
