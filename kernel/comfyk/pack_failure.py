"""Why a pack failed, as one line: in plain words where the error's own would not tell a user what is missing."""

from __future__ import annotations

from types import ModuleType

from comfyk.foreign_code import describe, text_of

_COMFYUI_MODULES = frozenset(
    {
        "api_server", "comfy", "comfy_aimdo", "comfy_api", "comfy_api_nodes", "comfy_config", "comfy_execution",
        "comfy_extras", "comfy_kitchen", "comfyui_version", "cuda_malloc", "execution", "folder_paths",
        "latent_preview", "node_helpers", "nodes", "protocol", "server",
    }
)  # fmt: skip
"""The modules and packages at the top of ComfyUI that packs import, but for names that a pack's own could have."""

_SHOWN = 300


def reason_of(error: BaseException) -> str:
    """One line, not longer than a line of a log should be."""
    cause: BaseException | None = error
    for _ in range(10):  # chains may be rings
        if cause is None:
            break
        if (lacks := _lacks(cause)) is not None:
            return lacks
        cause = cause.__cause__
    text = " ".join(describe(error).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _lacks(error: BaseException) -> str | None:
    """What of ComfyUI it asked for in vain, if it was that."""
    if isinstance(error, ModuleNotFoundError) and _is_comfyuis(error.name):
        return f"it needs ComfyUI's module {error.name}, which comfyk does not have"
    if isinstance(error, ImportError) and _is_comfyuis(error.name):
        return (
            f"it needs something of ComfyUI's module {error.name} that comfyk does not have: {text_of(error)}"
        )
    if isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        module = error.obj.__name__
        if _is_comfyuis(module):
            return f"it needs {module}.{error.name} of ComfyUI, which comfyk does not have"
    return None


def _is_comfyuis(module: object) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in _COMFYUI_MODULES
