"""The hook that the frontend plugin has for others; see `comfyk.hookspecs` for what holds for all hooks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from comfyk import hookspec

if TYPE_CHECKING:
    from comfyk import App


@hookspec
def comfyk_known_model_files(app: App) -> Iterable[str] | None:  # type: ignore[return]
    """Say what the files of the diffusion models are called that nodes here can load.

    Templates of the web UI whose checkpoints or diffusion models nobody knows are left out of its list.

    When: the list of templates is asked for.
    Thread: the event loop's: do not block.
    Return: patterns of file names, such as `*sd_xl*`; `*`, `?` and `[...]` as in a shell, in any case.
    On error: recorded.
    Since: 0.1.
    """
