"""The kernel's own sections of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from comfyk.settings_fields import AbsolutePath, Option


class _KernelSection(BaseModel):
    # Reading docstrings takes milliseconds for each class, at every start: these have `description` instead.
    model_config = ConfigDict(extra="forbid", validate_default=True)


class FolderSettings(_KernelSection):
    """Where files are."""

    base: Annotated[AbsolutePath, Option("--base-directory", metavar="DIR")] = Field(
        default_factory=Path.cwd,
        description="The folder that holds models, custom_nodes, input, output, temp and user; else the "
        "current one.",
    )
    input: Annotated[AbsolutePath | None, Option("--input-directory", metavar="DIR")] = Field(
        default=None,
        description="Pictures and other files that workflows read, instead of `input` in the base folder.",
    )
    output: Annotated[AbsolutePath | None, Option("--output-directory", metavar="DIR")] = Field(
        default=None,
        description="What workflows save, instead of `output` in the base folder.",
    )
    temp: Annotated[AbsolutePath | None, Option("--temp-directory", metavar="DIR")] = Field(
        default=None,
        description="Previews and other files that need not last, instead of `temp` in the base folder.",
    )
    temp_max_mb: int = Field(
        default=4096,
        ge=0,
        description="How much may lie in the temp folder; beyond that the oldest files go. 0: any amount.",
    )
    temp_max_age_days: int = Field(
        default=30,
        ge=0,
        description="How long files stay in the temp folder, at most; a job's previews go with the job anyway. 0: as "
        "long as the job.",
    )
    user: Annotated[AbsolutePath | None, Option("--user-directory", metavar="DIR")] = Field(
        default=None,
        description="Users' settings and workflows, and the server's own data, instead of `user` in the base "
        "folder.",
    )
    models: Annotated[AbsolutePath | None, Option("--models-directory", metavar="DIR")] = Field(
        default=None,
        description="Model files by kind, instead of `models` in the base folder.",
    )
    extra_model_paths: Annotated[
        list[AbsolutePath], Option("--extra-model-paths-config", metavar="FILE ...")
    ] = Field(
        default=[],
        description="YAML files that name more folders of models, beside `extra_model_paths.yaml` in the base "
        "folder.",
    )


class PluginSettings(_KernelSection):
    """Which plugins are loaded."""

    disabled: list[str] = Field(
        default=[],
        description="Names of installed plugins to leave out; `comfyk plugin disable NAME` adds one.",
    )


class NodeSettings(_KernelSection):
    """Which node packs are loaded."""

    disable_custom: Annotated[bool, Option("--disable-all-custom-nodes")] = Field(
        default=False,
        description="Load no node packs but those that the whitelist names.",
    )
    whitelist: Annotated[list[str], Option("--whitelist-custom-nodes", metavar="NAME ...")] = Field(
        default=[],
        description="Folder or file names in `custom_nodes` that are loaded although the others are not.",
    )
    load_timeout: float = Field(
        default=15,
        gt=0,
        description="How many seconds prompts, and the other packs, wait for a pack that is being loaded. It goes on "
        "loading, and its nodes are there once it has loaded.",
    )


def _cache_lru(arguments: list[str]) -> Mapping[str, Any]:
    size = int(arguments[0])
    return {"execution.cache": "lru", "execution.cache_lru": size} if size > 0 else {}


def _cache_ram(arguments: list[str]) -> Mapping[str, Any]:
    if len(arguments) > 2:
        raise ValueError("takes at most two numbers of gigabytes")
    names = ("execution.cache_ram_gb", "execution.cache_ram_inactive_gb")
    return {"execution.cache": "ram", **dict(zip(names, map(float, arguments), strict=False))}


class ExecutionSettings(_KernelSection):
    """How jobs run."""

    cache: Annotated[
        Literal["ram", "classic", "lru", "none"],
        Option("--cache-classic", const="classic", help="Keep the results of the latest prompt's nodes."),
        Option("--cache-none", const="none", help="Keep no results: every node runs each time."),
    ] = Field(
        default="ram",
        description="Which node results are kept: `ram` as many as memory allows, `classic` those of the "
        "latest prompt, `lru` the last `cache_lru`, `none` none.",
    )
    cache_lru: Annotated[int, Option("--cache-lru", nargs="1", metavar="N", sets=_cache_lru)] = Field(
        default=100,
        ge=1,
        description="How many node results the `lru` cache keeps.",
    )
    cache_ram_gb: Annotated[
        float | None, Option("--cache-ram", nargs="*", metavar="[GB [GB]]", sets=_cache_ram)
    ] = Field(
        default=None,
        ge=0,
        description="Gigabytes of memory that the `ram` cache leaves free. Unset: a tenth of the memory, 2 to "
        "10.",
    )
    cache_ram_inactive_gb: float | None = Field(
        default=None,
        ge=0,
        description="Keep the results of earlier prompts too, while so many gigabytes are free. Unset: drop them.",
    )


class JobSettings(_KernelSection):
    """What happens to jobs."""

    max_attempts: int = Field(
        default=2,
        ge=1,
        description="How often a job is started before it fails, when the server dies while it runs.",
    )
    max_nodes: int = Field(
        default=100_000,
        ge=1,
        description="How many nodes a prompt may have; one with more is refused before it is looked at.",
    )
    max_waiting_mb: int = Field(
        default=1024,
        ge=1,
        description="How much the prompts that wait may take up together, in megabytes; while they do, no further "
        "one is taken in. They lie in the job store: one at a time is in memory.",
    )


LogLevel = Literal["DEBUG", "DETAIL", "INFO", "WARNING", "ERROR", "CRITICAL"]


class LogFile(_KernelSection):
    """A file that the log goes to."""

    path: AbsolutePath = Field(
        description="The file; it is appended to.",
    )
    level: LogLevel = Field(
        default="DEBUG",
        description="The least important messages that are written.",
    )


def _verbose(arguments: list[str]) -> Mapping[str, Any]:
    if len(arguments) > 2:
        raise ValueError("takes a level and a file at most")
    level = arguments[0].upper() if arguments else "DEBUG"
    if level not in get_args(LogLevel):
        raise ValueError(f"{arguments[0]!r} is not a level; use one of {', '.join(get_args(LogLevel))}")
    if len(arguments) == 2:
        return {"logging.files": [{"level": level, "path": arguments[1]}]}
    return {"logging.level": level}


class LogSettings(_KernelSection):
    """What is logged, and where."""

    level: Annotated[LogLevel, Option("--verbose", nargs="*", metavar="[LEVEL [FILE]]", sets=_verbose)] = (
        Field(
            default="INFO",
            description="The least important messages on the console. `--verbose` alone is DEBUG; a FILE gets "
            "them too.",
        )
    )
    stdout: Annotated[bool, Option("--log-stdout")] = Field(
        default=False,
        description="Log to standard output instead of standard error; errors always go to the latter.",
    )
    files: list[LogFile] = Field(
        default=[],
        description="Files to log to, each with its level.",
    )
