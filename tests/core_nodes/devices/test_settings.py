"""ComfyUI's options for precision and memory, and the dtypes and devices that follow from them."""

from __future__ import annotations

import os
from typing import Any

import comfyk_core_nodes.plugin
import pytest
import torch
from comfyk.commands.comfyui_options import COMFYUI_OPTIONS
from comfyk.commands.options import option_table, read_options
from comfyk.plugins import Plugins
from comfyk.settings import SettingsError, load_settings, plugin_sections
from comfyk_core_nodes.devices import device, settings
from comfyk_core_nodes.devices.settings import DeviceSettings
from comfyk_core_nodes.memory.freeing import free_after
from comfyk_core_nodes.memory.manager import load_models_gpu, loaded_models
from comfyk_core_nodes.weights import dtypes

from ..memory.conftest import CPU, OwnLayers, build, patcher_of

pytestmark = pytest.mark.usefixtures("nothing_loaded")

CUDA = torch.device("cuda:0")
MPS = torch.device("mps")


def read(*words: str) -> DeviceSettings:
    plugins = Plugins()
    plugins.register(comfyk_core_nodes.plugin, "core-nodes")
    given = read_options(words, option_table(plugin_sections(plugins)), COMFYUI_OPTIONS)
    assert not given.ignored
    return load_settings(plugins, overrides=given.overrides).section("device", DeviceSettings)


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("--cpu", "device", "cpu"),
        ("--lowvram", "vram", "low"),
        ("--novram", "vram", "none"),
        ("--highvram", "vram", "high"),
        ("--gpu-only", "vram", "gpu-only"),
        ("--reserve-vram 1.5", "reserve_gb", 1.5),
        ("--disable-smart-memory", "smart_memory", False),
        ("--force-fp32", "precision", "fp32"),
        ("--force-fp16", "precision", "fp16"),
        *(
            (f"--{dtype}-unet", "unet_dtype", dtype)
            for dtype in ("fp64", "fp32", "bf16", "fp16", "fp8_e4m3fn", "fp8_e5m2")
        ),
        *((f"--{dtype}-vae", "vae_dtype", dtype) for dtype in ("fp32", "bf16", "fp16")),
        *(
            (f"--{dtype}-text-enc", "text_encoder_dtype", dtype)
            for dtype in ("fp32", "bf16", "fp16", "fp8_e4m3fn", "fp8_e5m2")
        ),
        ("--cpu-vae", "vae_on_cpu", True),
        ("--fp16-intermediates", "fp16_intermediates", True),
        ("--force-upcast-attention", "attention_upcast", "always"),
        ("--dont-upcast-attention", "attention_upcast", "never"),
        ("--force-channels-last", "channels_last", True),
        ("--deterministic", "deterministic", True),
        ("--disable-mmap", "mmap", False),
        ("--default-device 1", "default_device", 1),
        ("--cuda-device 0,1", "cuda_devices", "0,1"),
        ("--oneapi-device-selector level_zero:0", "oneapi_devices", "level_zero:0"),
    ],
)
def test_options_of_comfyui(words: str, field: str, value: Any) -> None:
    assert words.split()[0] in COMFYUI_OPTIONS
    assert getattr(read(*words.split()), field) == value


@pytest.mark.parametrize("words", ["--reserve-vram -1", "--default-device -2", "--cuda-device 0;rm"])
def test_values_that_make_no_sense_are_refused(words: str) -> None:
    with pytest.raises(SettingsError):
        read(*words.split())


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    def change(**values: Any) -> None:
        monkeypatch.setattr(settings, "_DEFAULTS", DeviceSettings(**values))

    return change


def test_on_the_cpu() -> None:
    """fp32 but for text encoders, which stay in the dtype of the file: nothing is copied for them."""
    assert dtypes.unet_dtype(CPU, weight_dtype=torch.float16) == torch.float32
    assert dtypes.unet_dtype(CPU, weight_dtype=torch.float8_e4m3fn) == torch.float32
    assert dtypes.compute_dtype(torch.float16, CPU) == torch.float32
    assert dtypes.compute_dtype(torch.float64, CPU) == torch.float64
    assert dtypes.vae_dtype(CPU, [torch.bfloat16, torch.float16]) == torch.float32
    assert dtypes.text_encoder_dtype(CPU) == torch.float16
    assert dtypes.text_encoder_dtype(CPU, torch.bfloat16) == torch.bfloat16
    assert dtypes.intermediate_dtype() == torch.float32
    assert dtypes.lora_compute_dtype(CPU) == torch.float32


def test_where_half_precision_is_fast() -> None:
    """MPS stands for a device that is good at both; nothing is asked of its driver."""
    assert dtypes.unet_dtype(MPS) == torch.float16
    assert dtypes.unet_dtype(MPS, supported_dtypes=[torch.bfloat16, torch.float32]) == torch.bfloat16
    assert (
        dtypes.unet_dtype(MPS, supported_dtypes=[torch.bfloat16, torch.float16], weight_dtype=torch.float16)
        == torch.float16
    )
    assert dtypes.unet_dtype(MPS, supported_dtypes=[torch.float32]) == torch.float32
    assert dtypes.unet_dtype(MPS, model_params=10**15, weight_dtype=torch.float8_e5m2) == torch.float8_e5m2
    assert dtypes.compute_dtype(torch.float8_e5m2, MPS) == torch.float16
    assert dtypes.compute_dtype(torch.bfloat16, MPS) == torch.bfloat16
    assert dtypes.vae_dtype(MPS, [torch.bfloat16, torch.float32]) == torch.bfloat16
    assert dtypes.vae_dtype(MPS, [torch.float32]) == torch.float32


def test_forced_precision(use: Any) -> None:
    use(precision="fp32")
    assert dtypes.unet_dtype(MPS) == torch.float32
    assert dtypes.vae_dtype(MPS, [torch.float16]) == torch.float32
    use(precision="fp16")
    assert dtypes.unet_dtype(CUDA, supported_dtypes=[torch.float16]) == torch.float16
    assert dtypes.unet_dtype(CPU) == torch.float32


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("fp64", torch.float64),
        ("fp32", torch.float32),
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
        ("fp8_e4m3fn", torch.float8_e4m3fn),
        ("fp8_e5m2", torch.float8_e5m2),
    ],
)
def test_the_dtype_that_is_asked_for(name: str, dtype: torch.dtype, use: Any) -> None:
    use(unet_dtype=name)
    assert dtypes.unet_dtype(CPU) == dtypes.unet_dtype(MPS) == dtype
    if name != "fp64":
        use(text_encoder_dtype=name)
        assert dtypes.text_encoder_dtype(CPU, torch.float32) == dtype
    if name in ("fp32", "bf16", "fp16"):
        use(vae_dtype=name)
        assert dtypes.vae_dtype(MPS) == dtype
    use(fp16_intermediates=True)
    assert dtypes.intermediate_dtype() == torch.float16


def test_devices_of_the_parts(use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    parts = (
        device.unet_offload_device,
        device.text_encoder_device,
        device.text_encoder_offload_device,
        device.vae_device,
        device.vae_offload_device,
        device.intermediate_device,
    )
    expected = {
        "auto": (CPU, CUDA, CPU, CUDA, CPU, CPU),
        "low": (CPU, CPU, CPU, CUDA, CPU, CPU),
        "none": (CPU, CPU, CPU, CUDA, CPU, CPU),
        "high": (CUDA, CUDA, CPU, CUDA, CPU, CPU),
        "gpu-only": (CUDA,) * 6,
    }
    for vram, where in expected.items():
        use(vram=vram)
        assert tuple(part() for part in parts) == where, vram
    use(vae_on_cpu=True, default_device=3)
    assert device.vae_device() == CPU
    assert device.get_torch_device() == torch.device("cuda:3")


def test_the_running_app_says_what_to_use(app: Any) -> None:
    assert settings.cpu_only() is False
    app.settings.section("device").device = "cpu"
    assert settings.cpu_only() and device.get_torch_device() == CPU


def test_drivers_are_shown_the_devices_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "CUDA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "ONEAPI_DEVICE_SELECTOR",
        "CUBLAS_WORKSPACE_CONFIG",
    ):
        monkeypatch.setenv(name, "before")
    settings.select_devices(DeviceSettings(cuda_devices="all"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "before"
    settings.select_devices(DeviceSettings(cuda_devices="1", oneapi_devices="gpu:0", deterministic=True))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == os.environ["HIP_VISIBLE_DEVICES"] == "1"
    assert os.environ["ONEAPI_DEVICE_SELECTOR"] == "gpu:0"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == "before"


def test_the_cpu_tells_its_memory() -> None:
    cpu = device.device_of(CPU)
    assert 0 < cpu.free() <= cpu.total()
    assert cpu.tensor_device == CPU
    device.soft_empty_cache()


@pytest.mark.parametrize("oom", [False, True])
def test_models_go_when_memory_is_asked_for(oom: bool, app: Any) -> None:
    patcher = patcher_of(build(OwnLayers))
    load_models_gpu([patcher])
    if oom:
        error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 bytes")
        assert "ran out of memory" in (free_after(error) or "")
    else:
        assert comfyk_core_nodes.plugin.comfyk_free_memory(unload_models=False)["models"] == 0
        assert loaded_models() == [patcher.model]
        assert comfyk_core_nodes.plugin.comfyk_free_memory(unload_models=True)["models"] == 1
    assert not loaded_models() and patcher.loaded_size() == 0
