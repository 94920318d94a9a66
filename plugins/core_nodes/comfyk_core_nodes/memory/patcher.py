"""ModelPatcher: a model as nodes pass it around, with patches that are its own and weights that all clones share.

A clone costs nothing: patches and model options are lists and dicts of small things. Only loading one makes them
true in the model, and loading another clone changes what differs. Method names are ComfyUI's, since node packs call
them.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from functools import partial, partialmethod
from typing import Any

import torch
from torch import Tensor, nn

from comfyk_core_nodes.devices.device import device_of
from comfyk_core_nodes.memory import extension_methods, option_methods
from comfyk_core_nodes.memory import model_options as options
from comfyk_core_nodes.memory.extension_methods import call_back, inject_model
from comfyk_core_nodes.memory.extensions import Registry
from comfyk_core_nodes.memory.objects import get_attribute
from comfyk_core_nodes.memory.patches import Patch, patched_weight
from comfyk_core_nodes.memory.residency import Residency, Wanted, Wrapper, residency_of

_COMPUTE_DTYPE = "manual_cast_dtype"
"""The model's attribute that says what to compute in; an object patch of that name overrides it."""


class ModelPatcher:
    """A model, the devices it is loaded on and kept on, and its patches.

    `weight_dtype` is what its floating-point weights are kept in on the device (None: what they are in the file).
    What is computed in is the model's `manual_cast_dtype`, if it has one that is not None, else the same.
    `callbacks` and `wrappers` are by kind and key (`memory.extensions`); `attachments` are for whoever put them there.
    """

    def __init__(
        self,
        model: nn.Module,
        load_device: torch.device,
        offload_device: torch.device,
        size: int = 0,
        weight_inplace_update: bool = False,
        weight_dtype: torch.dtype | None = None,
    ) -> None:
        self.model: Any = model
        self.load_device = torch.device(load_device)
        self.offload_device = torch.device(offload_device)
        self.size = size
        self.weight_inplace_update = weight_inplace_update
        self.weight_dtype = weight_dtype
        self.patches: dict[str, list[Patch]] = {}
        self.object_patches: dict[str, Any] = {}
        self.weight_wrapper_patches: dict[str, list[Wrapper]] = {}
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.patches_uuid = uuid.uuid4()
        self.parent: ModelPatcher | None = None
        self.callbacks: Registry = {}
        self.wrappers: Registry = {}
        self.attachments: dict[str, Any] = {}
        self.injections: dict[str, list[Any]] = {}
        self.additional_models: dict[str, list[ModelPatcher]] = {}

    # --- clones --------------------------------------------------------------------------------------------

    def clone(self) -> ModelPatcher:
        """Another patcher of the same model, with the same patches so far. Weights are shared."""
        other = type(self)(
            self.model,
            self.load_device,
            self.offload_device,
            self.size,
            self.weight_inplace_update,
            self.weight_dtype,
        )
        other.patches = {key: list(patches) for key, patches in self.patches.items()}
        other.patches_uuid = self.patches_uuid
        other.object_patches = dict(self.object_patches)
        other.weight_wrapper_patches = {
            key: list(found) for key, found in self.weight_wrapper_patches.items()
        }
        other.model_options = options.copy_model_options(self.model_options)
        other.parent = self
        other.callbacks = options.copy_model_options(self.callbacks)
        other.wrappers = options.copy_model_options(self.wrappers)
        other.attachments = {
            key: value.on_model_patcher_clone() if hasattr(value, "on_model_patcher_clone") else value
            for key, value in self.attachments.items()
        }
        other.injections = {key: list(found) for key, found in self.injections.items()}
        other.additional_models = {
            key: [model.clone() for model in models] for key, models in self.additional_models.items()
        }
        call_back(self, "on_clone", other)
        return other

    def is_clone(self, other: Any) -> bool:
        """Whether `other` patches the same model."""
        return getattr(other, "model", None) is self.model

    def clone_has_same_weights(self, clone: ModelPatcher) -> bool:
        """Whether the clone's weights are the same as this one's."""
        return self.is_clone(clone) and (
            self.patches_uuid == clone.patches_uuid or not (self.patches or clone.patches)
        )

    # --- loading -------------------------------------------------------------------------------------------

    @property
    def backup(self) -> Mapping[str, Tensor]:
        """The unpatched weights of those that are replaced in the model now."""
        return self._residency.homes

    @property
    def _residency(self) -> Residency:
        return residency_of(self.model)

    def load(self, budget: int | None = None) -> nn.Module:
        """Bring the model to `load_device` as patched here, with at most `budget` bytes of its weights there.

        Does nothing that is done already. An exception on the way leaves the model without any patch, at home. Nodes
        call `load_models_gpu` instead, which makes room first.
        """
        residency = self._residency
        residency.eject()
        try:
            residency.replace_objects(self.model, self.object_patches)
            residency.load(self.model, self._wanted(), budget)
            self.model_patches_to(self.load_device)
            inject_model(self, residency.ejectors)
        except BaseException:
            self.unload()
            raise
        call_back(self, "on_load_after", self.load_device, budget or 0, False, budget is None)
        return self.model

    def unload(self) -> nn.Module:
        """Bring the model home and take every patch off, whichever clone it was that put it on."""
        self._residency.restore(self.model)
        return self.model

    def patch_model(self, device_to: torch.device | None = None, **_: Any) -> nn.Module:
        """Load the whole model; to another device if one is given."""
        if device_to is not None:
            self.load_device = torch.device(device_to)
        return self.load()

    def unpatch_model(self, device_to: torch.device | None = None, unpatch_weights: bool = True) -> None:
        """Bring the model home; with `unpatch_weights` false only object patches are taken off."""
        if unpatch_weights:
            self.unload()
        else:
            self._residency.eject()
            self._residency.replace_objects(self.model, {})

    def detach(self, unpatch_all: bool = True) -> nn.Module:
        """Bring the model home because something else takes its place."""
        self.unpatch_model(self.offload_device, unpatch_weights=unpatch_all)
        call_back(self, "on_detach_after", unpatch_all)
        return self.model

    def model_size(self) -> int:
        """Bytes of all weights, as they are on the device."""
        if self.size <= 0:
            self.size = sum(
                tensor.numel() * self._wanted().kept_dtype(tensor).itemsize
                for held in (self.model.parameters(), self.model.buffers())
                for tensor in held
            )
        return self.size

    def loaded_size(self) -> int:
        """Bytes that the model's weights take on the device now, whichever clone is loaded."""
        return self._residency.loaded_bytes

    def memory_to_load(self) -> int:
        """Bytes that loading takes from what is free on the device."""
        return max(0, self._residency.nbytes(self.model, self._wanted()) - self.loaded_size())

    def current_loaded_device(self) -> torch.device:
        """Where the model's weights are."""
        wanted = self._residency.wanted
        return self.offload_device if wanted is None else wanted.device.torch_device

    def memory_required(self, input_shape: Sequence[int]) -> float:
        """Bytes that a forward pass takes on an input of this shape."""
        return self.model.memory_required(input_shape)

    def model_dtype(self) -> torch.dtype | None:
        """What the model says its inputs are to be in."""
        return self.model.get_dtype() if hasattr(self.model, "get_dtype") else None

    def compute_dtype(self) -> torch.dtype | None:
        """What to compute in; None is what the weights are in."""
        if _COMPUTE_DTYPE in self.object_patches:
            return self.object_patches[_COMPUTE_DTYPE]
        return getattr(self.model, _COMPUTE_DTYPE, None)

    def set_model_compute_dtype(self, dtype: torch.dtype | None) -> None:
        """Compute in this dtype, whatever the weights are kept in."""
        self.add_object_patch(_COMPUTE_DTYPE, dtype)
        self.patches_uuid = uuid.uuid4()

    def _wanted(self) -> Wanted:
        return Wanted(
            device=device_of(self.load_device),
            weight_dtype=self.weight_dtype,
            compute_dtype=self.compute_dtype(),
            patches=self.patches,
            wrappers=self.weight_wrapper_patches,
        )

    # --- patches of weights --------------------------------------------------------------------------------

    def add_patches(
        self, patches: Mapping[Any, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        """Multiply weights by `strength_model` and add `strength_patch` times a change (see `memory.patches`).

        A key of `patches` is a key of the model's state dict, or `(key, offset)` or `(key, offset, function)` for a
        part of the weight. Returns the keys that the model has; the others have no effect.
        """
        known = self._residency.keys(self.model)
        taken: list[Any] = []
        for where, value in patches.items():
            key, offset, function = (
                (where, None, None) if isinstance(where, str) else (*where, None, None)[:3]
            )
            if key in known:
                taken.append(where)
                patch = (strength_patch, value, strength_model, offset, function)
                self.patches.setdefault(key, []).append(patch)
        self.patches_uuid = uuid.uuid4()
        return taken

    def add_weight_wrapper(self, name: str, function: Wrapper) -> None:
        """Apply a function to the weight `name` after its patches."""
        self.weight_wrapper_patches.setdefault(name, []).append(function)
        self.patches_uuid = uuid.uuid4()

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, list[Any]]:
        """`{key: [(unpatched weight, convert), *patches]}`, which are patches for `add_patches` of another model."""
        return {
            key: [(weight, partial(_unscaled, self._scale_of(key))), *self.patches.get(key, [])]
            for key, weight in self._residency.home_state_dict(self.model).items()
            if filter_prefix is None or key.startswith(filter_prefix)
        }

    def model_state_dict(self, filter_prefix: str | None = None) -> dict[str, Tensor]:
        """The state dict of the model as it is now, loaded or not."""
        state = self.model.state_dict()
        return {
            key: value
            for key, value in state.items()
            if filter_prefix is None or key.startswith(filter_prefix)
        }

    def model_state_dict_for_saving(self, prefix: str = "") -> dict[str, Tensor]:
        """The patched weights of all keys that begin with `prefix`, on the CPU, in the dtype of the file.

        What has no patches is not copied. Weights that are stored divided by a scale, which the keys leave out,
        become bf16. The prefix stays in the keys.
        """
        state: dict[str, Tensor] = {}
        with torch.no_grad():
            for key, home in self._residency.home_state_dict(self.model).items():
                if key.startswith(prefix):
                    weight, patches, scale = home.detach(), self.patches.get(key), self._scale_of(key)
                    if scale is not None:
                        weight = _unscaled(scale, weight.to(torch.bfloat16))
                    if patches:
                        weight = patched_weight(weight, patches, key, weight.dtype)
                    for wrapper in self.weight_wrapper_patches.get(key, []):
                        weight = wrapper(weight)
                    state[key] = weight.cpu()
        return state

    def _scale_of(self, key: str) -> Tensor | None:
        path, _, name = key.rpartition(".")
        return getattr(self.model.get_submodule(path), "scale_weight", None) if name == "weight" else None

    # --- patches of objects --------------------------------------------------------------------------------

    def add_object_patch(self, name: str, obj: Any) -> None:
        """Have `obj` stand at the dotted `name` in the model while this patcher is loaded."""
        self.object_patches[name] = obj

    def get_model_object(self, name: str) -> Any:
        """What stands at the dotted `name` for this patcher, loaded or not. Raises AttributeError."""
        if name in self.object_patches:
            return self.object_patches[name]
        before = self._residency.objects.before(name)
        return get_attribute(self.model, name) if before is None else before

    # --- what node packs add -------------------------------------------------------------------------------

    add_callback = extension_methods.add_callback
    add_callback_with_key = extension_methods.add_callback_with_key
    remove_callbacks_with_key = extension_methods.remove_callbacks_with_key
    get_callbacks = extension_methods.get_callbacks
    get_all_callbacks = extension_methods.get_all_callbacks
    add_wrapper = extension_methods.add_wrapper
    add_wrapper_with_key = extension_methods.add_wrapper_with_key
    remove_wrappers_with_key = extension_methods.remove_wrappers_with_key
    get_wrappers = extension_methods.get_wrappers
    get_all_wrappers = extension_methods.get_all_wrappers
    set_attachments = extension_methods.set_attachments
    get_attachment = extension_methods.get_attachment
    remove_attachments = extension_methods.remove_attachments
    set_injections = extension_methods.set_injections
    remove_injections = extension_methods.remove_injections
    set_additional_models = extension_methods.set_additional_models
    get_additional_models = extension_methods.get_additional_models
    pre_run = extension_methods.pre_run
    prepare_state = extension_methods.prepare_state
    cleanup = extension_methods.cleanup

    # --- model options -------------------------------------------------------------------------------------

    disable_model_cfg1_optimization = option_methods.disable_model_cfg1_optimization
    set_model_sampler_cfg_function = option_methods.set_model_sampler_cfg_function
    set_model_sampler_post_cfg_function = option_methods.set_model_sampler_post_cfg_function
    set_model_sampler_pre_cfg_function = option_methods.set_model_sampler_pre_cfg_function
    set_model_sampler_calc_cond_batch_function = option_methods.set_model_sampler_calc_cond_batch_function
    set_model_unet_function_wrapper = option_methods.set_model_unet_function_wrapper
    set_model_denoise_mask_function = option_methods.set_model_denoise_mask_function
    set_model_patch = option_methods.set_model_patch
    set_model_patch_replace = option_methods.set_model_patch_replace
    set_model_attn1_replace = option_methods.set_model_attn1_replace
    set_model_attn2_replace = option_methods.set_model_attn2_replace
    set_model_optimized_attention = option_methods.set_model_optimized_attention
    model_patches_to = option_methods.model_patches_to
    model_patches_models = option_methods.model_patches_models
    model_patches_call_function = option_methods.model_patches_call_function

    set_model_attn1_patch = partialmethod(set_model_patch, name="attn1_patch")
    set_model_attn2_patch = partialmethod(set_model_patch, name="attn2_patch")
    set_model_attn1_output_patch = partialmethod(set_model_patch, name="attn1_output_patch")
    set_model_attn2_output_patch = partialmethod(set_model_patch, name="attn2_output_patch")
    set_model_input_block_patch = partialmethod(set_model_patch, name="input_block_patch")
    set_model_input_block_patch_after_skip = partialmethod(
        set_model_patch, name="input_block_patch_after_skip"
    )
    set_model_output_block_patch = partialmethod(set_model_patch, name="output_block_patch")
    set_model_middle_block_after_patch = partialmethod(set_model_patch, name="middle_block_after_patch")
    set_model_emb_patch = partialmethod(set_model_patch, name="emb_patch")
    set_model_forward_timestep_embed_patch = partialmethod(
        set_model_patch, name="forward_timestep_embed_patch"
    )
    set_model_double_block_patch = partialmethod(set_model_patch, name="double_block")


def _unscaled(scale: Tensor | None, weight: Tensor, inplace: bool = False) -> Tensor:
    """What a weight that is stored divided by a scale stands for."""
    return weight if scale is None else weight * scale.to(weight)
