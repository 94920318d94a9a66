"""`load_upscale_model`: from a file to a network that enlarges pictures, whatever its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from comfyk_core_nodes.devices.device import get_torch_device, unet_offload_device
from comfyk_core_nodes.memory.managed import managed
from comfyk_core_nodes.upscaling.compact import CompactNet, is_compact
from comfyk_core_nodes.upscaling.rrdb import RRDBNet, rrdb_state
from comfyk_core_nodes.weights.build import Path, build, reading
from comfyk_core_nodes.weights.contents import describe
from comfyk_core_nodes.weights.files import ModelFileError, load_torch_file
from comfyk_core_nodes.weights.state_dict import StateDict, with_prefix

if TYPE_CHECKING:
    from comfyk_core_nodes.memory.patcher import ModelPatcher

EXPECTED = "an upscale model (ESRGAN, Real-ESRGAN, SRVGGNetCompact)"
INSTALL = "pip install 'comfyk-core-nodes[upscale]'"


class UpscaleModel:
    """An upscale model with its ModelPatcher. Attribute names are the field's (those of spandrel's descriptors)."""

    patcher: ModelPatcher

    def __init__(self, model: nn.Module, scale: int, input_channels: int, output_channels: int) -> None:
        self.model = model
        self.scale = scale
        self.input_channels = input_channels
        self.output_channels = output_channels
        device = get_torch_device()
        self.patcher = managed(model, device, unet_offload_device(), torch.float32, torch.float32)

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """`[B, input_channels, H, W]` to `[B, output_channels, H * scale, W * scale]`, both from 0 to 1."""
        return self.model(image).clamp(0, 1)


def load_upscale_model(path: Path) -> UpscaleModel:
    """The upscale model in a file.

    Raises ModelFileError for a file that holds something else, or what needs `spandrel` while that is not installed.
    """
    state, _ = load_torch_file(path)
    with reading(path, EXPECTED):
        return _read(path, with_prefix(state, "module.") or state)


def _read(path: Path, state: StateDict) -> UpscaleModel:
    esrgan = rrdb_state(state)
    if esrgan is not None:
        return _model(build(lambda: RRDBNet(esrgan), esrgan))
    if is_compact(state):
        return _model(build(lambda: CompactNet(state), state))
    return _other_architecture(path, state)


def _model(network: RRDBNet | CompactNet) -> UpscaleModel:
    return UpscaleModel(network, network.scale, network.input_channels, network.output_channels)


def _other_architecture(path: Path, state: Mapping[str, Tensor]) -> UpscaleModel:
    try:
        import spandrel  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        hint = f"{EXPECTED}; for others run: {INSTALL}"
        raise ModelFileError(path, hint, describe(state)) from error
    except Exception as error:
        # As where its torchvision was built for another torch.
        hint = f"{EXPECTED}; others need spandrel, which does not start ({error}); mend it by: {INSTALL}"
        raise ModelFileError(path, hint, describe(state)) from error
    try:
        found: Any = spandrel.ModelLoader().load_from_state_dict(dict(state))
    except spandrel.UnsupportedModelError as error:
        raise ModelFileError(path, "an upscale model that spandrel knows", describe(state)) from error
    if not isinstance(found, spandrel.ImageModelDescriptor):
        raise ModelFileError(
            path, "a model that enlarges pictures", f"one for {found.purpose} ({found.architecture.name})"
        )
    network = _Described(found)
    return UpscaleModel(network, found.scale, found.input_channels, found.output_channels)


class _Described(nn.Module):
    """A model of spandrel, which pads pictures to the sizes that its network can take."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.network = descriptor.model.eval()
        self._call = descriptor

    def forward(self, x: Tensor) -> Tensor:
        return self._call(x)
