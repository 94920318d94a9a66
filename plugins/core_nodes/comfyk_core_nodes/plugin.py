"""The hooks of the core nodes: the nodes, torch around every job, and what is known of the devices."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from comfyk import hookimpl

from comfyk_core_nodes import hookspecs, warm_up
from comfyk_core_nodes.devices import settings as device_settings
from comfyk_core_nodes.devices.freed import keep_freed_memory
from comfyk_core_nodes.devices.stats import device_stats
from comfyk_core_nodes.devices.torch_import import torch_version
from comfyk_core_nodes.families.registry import model_families
from comfyk_core_nodes.images import metadata_settings
from comfyk_core_nodes.job_context import job_context, torch_for
from comfyk_core_nodes.memory.freeing import free_after, free_memory
from comfyk_core_nodes.nodes import NODES, submission
from comfyk_core_nodes.sampling import preview_settings

if TYPE_CHECKING:
    from comfyk import App
    from comfyk.jobs import Job
    from pydantic import BaseModel


@hookimpl
def comfyk_add_hooks() -> Any:
    return hookspecs


@hookimpl
def comfyk_register_settings() -> Mapping[str, type[BaseModel]]:
    return {
        device_settings.SECTION: device_settings.DeviceSettings,
        preview_settings.SECTION: preview_settings.PreviewSettings,
        metadata_settings.SECTION: metadata_settings.MetadataSettings,
    }


@hookimpl
def comfyk_register_nodes(app: App) -> None:
    for node in NODES:
        app.nodes.add(node)


@hookimpl
def comfyk_startup(app: App) -> None:
    """Before anything imports torch, which looks at the devices when it starts, and before there are threads."""
    keep_freed_memory()
    wanted = app.settings.section(device_settings.SECTION, device_settings.DeviceSettings)
    device_settings.select_devices(wanted)


@hookimpl(trylast=True)
async def comfyk_serve(app: App) -> None:
    """Last, so that the port is open before torch takes the processor."""
    warm_up.warm_up_later(app)


@hookimpl
def comfyk_validate_prompt(app: App, prompt: dict[str, Any], extra_data: dict[str, Any]) -> None:
    submission.prepare(app, prompt, extra_data)


@hookimpl
def comfyk_before_job(job: Job) -> Awaitable[Any] | None:
    return torch_for(job.prompt)


@hookimpl
def comfyk_job_context() -> AbstractContextManager[None]:
    return job_context()


@hookimpl
def comfyk_node_failed(error: BaseException) -> str | None:
    return free_after(error)


@hookimpl
def comfyk_free_memory(unload_models: bool) -> Mapping[str, Any]:
    models, freed = free_memory(unload_models)
    return {"models": models, "bytes": freed}


@hookimpl
def comfyk_device_stats() -> list[dict[str, Any]]:
    return device_stats()


@hookimpl(optionalhook=True)
def comfyk_known_model_files(app: App) -> list[str]:
    """Asked by the plugin that serves the web UI, if there is one."""
    with app.active():
        return model_families().files


@hookimpl
def comfyk_system_stats() -> Mapping[str, Any]:
    return {"pytorch_version": torch_version()}
