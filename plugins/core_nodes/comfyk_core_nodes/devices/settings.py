"""The settings section `device`: precision, how much of the device is used, and where parts of a job run.

`device_settings()` gives those of the running app. No torch here: the options are known before it is there.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from comfyk.settings import Formerly, Option
from pydantic import BaseModel, ConfigDict, Field

from comfyk_core_nodes.app_settings import app_settings

SECTION = "device"

UnetDtype = Literal["auto", "fp64", "fp32", "bf16", "fp16", "fp8_e4m3fn", "fp8_e5m2"]
TextEncoderDtype = Literal["auto", "fp32", "bf16", "fp16", "fp8_e4m3fn", "fp8_e5m2"]


class DeviceSettings(BaseModel):
    """What models are computed on and in."""

    # Reading docstrings takes milliseconds at every start: the fields have `description` instead.
    model_config = ConfigDict(extra="forbid", validate_default=True)

    device: Annotated[
        Literal["auto", "cpu"],
        Option("--cpu", const="cpu", help="Compute on the CPU only."),
        Formerly("execution.device"),
    ] = Field(
        default="auto",
        description="What to compute on.",
    )
    vram: Annotated[
        Literal["auto", "gpu-only", "high", "low", "none"],
        Option("--gpu-only", const="gpu-only", help="Keep and run everything on the GPU, text encoders too."),
        Option(
            "--highvram",
            const="high",
            help="Keep models on the GPU after use, and never in part; on a CPU, weights in fp32.",
        ),
        Option(
            "--lowvram",
            const="low",
            help="Text encoders on the CPU; stream what does not fit; on a CPU, compute from the file itself.",
        ),
        Option("--novram", const="none", help="Keep no weights on the GPU: stream them module by module."),
    ] = Field(
        default="auto",
        description="How much of the GPU's memory weights may take. `auto`: what there is; of a model that is "
        "larger, part stays on the GPU and the rest is streamed. On a CPU: `auto` keeps a packed copy of 16-bit "
        "weights as they are, `high` and `gpu-only` one in fp32, `low` and `none` no copy.",
    )
    reserve_gb: Annotated[float | None, Option("--reserve-vram", metavar="GB")] = Field(
        default=None,
        ge=0,
        description="Gigabytes of the GPU's memory that are left to other programs. Unset: 0.4, more on Windows.",
    )
    smart_memory: Annotated[
        bool,
        Option("--disable-smart-memory", const=False, help="Take models off the GPU as soon as others load."),
    ] = Field(
        default=True,
        description="Leave models on the GPU until their memory is needed.",
    )
    precision: Annotated[
        Literal["auto", "fp32", "fp16"],
        Option("--force-fp32", const="fp32", help="Compute in fp32 wherever nothing else is asked for."),
        Option(
            "--force-fp16", const="fp16", help="Compute in fp16 on the GPU, even where it is thought slow."
        ),
    ] = Field(
        default="auto",
        description="What to compute in where the settings of the part leave it open.",
    )
    unet_dtype: Annotated[
        UnetDtype,
        Option("--fp64-unet", const="fp64", help="Diffusion models in fp64."),
        Option("--fp32-unet", const="fp32", help="Diffusion models in fp32."),
        Option("--bf16-unet", const="bf16", help="Diffusion models in bf16."),
        Option("--fp16-unet", const="fp16", help="Diffusion models in fp16."),
        Option("--fp8_e4m3fn-unet", const="fp8_e4m3fn", help="Weights of diffusion models in fp8 (e4m3fn)."),
        Option("--fp8_e5m2-unet", const="fp8_e5m2", help="Weights of diffusion models in fp8 (e5m2)."),
    ] = Field(
        default="auto",
        description="The dtype of a diffusion model's weights.",
    )
    vae_dtype: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Option("--fp32-vae", const="fp32", help="VAEs in fp32."),
        Option("--bf16-vae", const="bf16", help="VAEs in bf16."),
        Option("--fp16-vae", const="fp16", help="VAEs in fp16; some give black pictures."),
    ] = Field(
        default="auto",
        description="The dtype of a VAE.",
    )
    vae_on_cpu: Annotated[bool, Option("--cpu-vae")] = Field(
        default=False,
        description="Run VAEs on the CPU.",
    )
    text_encoder_dtype: Annotated[
        TextEncoderDtype,
        Option("--fp32-text-enc", const="fp32", help="Weights of text encoders in fp32."),
        Option("--bf16-text-enc", const="bf16", help="Weights of text encoders in bf16."),
        Option("--fp16-text-enc", const="fp16", help="Weights of text encoders in fp16."),
        Option("--fp8_e4m3fn-text-enc", const="fp8_e4m3fn", help="Weights of text encoders in fp8 (e4m3fn)."),
        Option("--fp8_e5m2-text-enc", const="fp8_e5m2", help="Weights of text encoders in fp8 (e5m2)."),
    ] = Field(
        default="auto",
        description="The dtype of a text encoder's weights.",
    )
    fp16_intermediates: Annotated[bool, Option("--fp16-intermediates")] = Field(
        default=False,
        description="Pass latents and pictures between nodes in fp16.",
    )
    attention_upcast: Annotated[
        Literal["auto", "always", "never"],
        Option("--force-upcast-attention", const="always", help="Compute attention in fp32."),
        Option("--dont-upcast-attention", const="never", help="Leave attention in the model's dtype."),
    ] = Field(
        default="auto",
        description="Whether attention of models in half precision is computed in fp32: `always`, `never`, or, with "
        "`auto`, on Apple GPUs, where it gives black pictures otherwise.",
    )
    channels_last: Annotated[bool, Option("--force-channels-last")] = Field(
        default=False,
        description="Keep the weights of convolutions in channels-last order; pictures always are. On the CPU, fp32 "
        "weights are in oneDNN's own order all the same, which is quicker.",
    )
    deterministic: Annotated[bool, Option("--deterministic")] = Field(
        default=False,
        description="Take torch's deterministic algorithms where there are any; slower.",
    )
    mmap: Annotated[
        bool, Option("--disable-mmap", const=False, help="Read files instead of mapping them.")
    ] = Field(
        default=True,
        description="Map model files into memory instead of reading them.",
    )
    default_device: Annotated[int | None, Option("--default-device", metavar="N")] = Field(
        default=None,
        ge=0,
        description="Which GPU to compute on, counted from 0. Unset: torch's current one.",
    )
    cuda_devices: Annotated[str | None, Option("--cuda-device", metavar="N[,N ...]")] = Field(
        default=None,
        pattern=r"^(all|[\w./:-]+(,[\w./:-]+)*)$",
        description="The CUDA or ROCm devices that exist for this server, such as `0` or `0,1`; `all` is all.",
    )
    oneapi_devices: Annotated[str | None, Option("--oneapi-device-selector", metavar="SELECTOR")] = Field(
        default=None,
        description="The oneAPI devices that exist for this server, as `ONEAPI_DEVICE_SELECTOR` has them.",
    )


_DEFAULTS = DeviceSettings()


def device_settings() -> DeviceSettings:
    """The section of the app that runs this code; the defaults outside of an app."""
    return app_settings(SECTION, _DEFAULTS)


def cpu_only() -> bool:
    """Whether the running app was told to compute on the CPU only (`--cpu`)."""
    return device_settings().device == "cpu"


def select_devices(settings: DeviceSettings) -> None:
    """Show the drivers only the devices that the settings name. Has no effect once torch has started them."""
    if settings.cuda_devices not in (None, "all"):
        for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
            os.environ[variable] = settings.cuda_devices
    if settings.oneapi_devices is not None:
        os.environ["ONEAPI_DEVICE_SELECTOR"] = settings.oneapi_devices
    if settings.deterministic:
        # cuBLAS is deterministic only with a fixed workspace, which it reads from here when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
