"""The options that ComfyUI 0.33 has, with how many arguments each takes: its launch scripts carry over.

Those that a settings section declares mean the same here; `comfyk start` takes the others with a warning.
"""

from __future__ import annotations

from comfyk.settings_fields import Nargs

_FLAGS = """
    auto-launch bf16-text-enc bf16-unet bf16-vae cache-classic cache-none cpu cpu-vae cuda-malloc debug-hang
    deterministic disable-all-custom-nodes disable-api-nodes disable-async-offload disable-auto-launch
    disable-cuda-graphs disable-cuda-malloc disable-dynamic-vram disable-manager-ui disable-metadata
    disable-mmap
    disable-nvml-pressure disable-pinned-memory disable-smart-memory disable-triton-backend disable-xformers
    dont-print-server dont-upcast-attention enable-asset-hashing enable-assets enable-compress-response-body
    enable-dynamic-vram enable-manager enable-manager-legacy-ui enable-triton-backend fast-disk
    force-channels-last force-fp16 force-fp32 force-non-blocking force-upcast-attention fp16-intermediates
    fp16-text-enc fp16-unet fp16-vae fp32-text-enc fp32-unet fp32-vae fp64-unet fp8_e4m3fn-text-enc
    fp8_e4m3fn-unet fp8_e5m2-text-enc fp8_e5m2-unet fp8_e8m0fnu-unet gpu-only high-ram highvram
    list-feature-flags log-stdout lowvram mmap-torch-files multi-user novram quick-test-for-ci
    supports-fp8-compute use-ck-attention use-flash-attention use-pytorch-cross-attention
    use-quad-cross-attention use-sage-attention use-split-cross-attention windows-standalone-build
"""
_ONE = """
    base-directory cache-lru comfy-api-base cuda-device database-url default-device default-hashing-function
    feature-flag front-end-root front-end-version input-directory max-upload-size models-directory
    oneapi-device-selector output-directory port preview-method preview-size reserve-vram temp-directory
    tls-certfile tls-keyfile user-directory vram-headroom
"""
_OPTIONAL = "async-offload directml enable-cors-header listen"
_ANY = "cache-ram fast verbose"
_SOME = "extra-model-paths-config whitelist-custom-nodes"

_BY_ARITY: dict[Nargs, str] = {"0": _FLAGS, "1": _ONE, "?": _OPTIONAL, "*": _ANY, "+": _SOME}

COMFYUI_OPTIONS: dict[str, Nargs] = {
    f"--{name}": nargs for nargs, names in _BY_ARITY.items() for name in names.split()
}
