"""What can be set: defaults < `comfyk.toml` < `COMFYK_*` environment variables < the command line.

A section is a pydantic model; the kernel's are in this file, and each plugin adds its own in
`comfyk_register_settings`. A field may carry `Option`s: its names on the command line of `comfyk start`.

    class HttpSettings(Section):
        port: Annotated[int, Option("--port")] = Field(default=8188, description="The port to listen on.")

Without one it is still reached by `--set http.port=8188`, `COMFYK_HTTP__PORT=8188` and `[http] port = 8188`. A field
that had another key says so by `Formerly("server.port")`, so that old files and variables still count.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar, get_args, overload

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, create_model
from pydantic_settings import BaseSettings, InitSettingsSource, SettingsConfigDict

from comfyk.config_file import ConfigFile, locked
from comfyk.folders import Folders
from comfyk.settings_sources import (
    ENV_PREFIX,
    Formerly,
    Layers,
    Override,
    SettingsError,
    did_you_mean,
    parse_text,
)

if TYPE_CHECKING:
    from pydantic_settings import PydanticBaseSettingsSource


__all__ = [
    "AbsolutePath",
    "Formerly",
    "Option",
    "Override",
    "Section",
    "Settings",
    "SettingsError",
    "load_settings",
]

log = logging.getLogger(__name__)

AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
"""A path, relative to the configuration file it is in, or else to the current directory; `~` is the home."""


Nargs = Literal["0", "1", "?", "*", "+"]
"""How many arguments an option takes, as argparse writes it."""


@dataclass(frozen=True, slots=True)
class Option:
    """A field's name on the command line: `Annotated[int, Option("--port")]`. A field may have several."""

    name: str
    _: KW_ONLY
    const: Any = None
    """A flag that takes no argument and means this. A `bool` field is a flag that means True."""
    bare: Any = None
    """What the option means when it stands alone: its argument may be left out."""
    metavar: str = ""
    help: str = ""
    """For `--help`; the field's description if empty."""
    nargs: Nargs | None = None
    """How many arguments it takes. Left out: 0 for a flag, `?` with `bare`, `+` for a list, else 1."""
    sets: Callable[[list[str]], Mapping[str, Any]] | None = None
    """Turn the arguments into settings (`{"execution.cache": "lru"}`), for options that are more than one
    field. ValueError says what is wrong with them."""


class Section(BaseModel):
    """The base of sections: a key that is not in the model is an error, a field's docstring describes it."""

    model_config = ConfigDict(extra="forbid", validate_default=True, use_attribute_docstrings=True)


class _KernelSection(BaseModel):
    # Reading docstrings takes milliseconds for each class, at every start: these have `description` instead.
    model_config = ConfigDict(extra="forbid", validate_default=True)


# --- the kernel's sections ---------------------------------------------------------------------------------


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


S = TypeVar("S", bound=BaseModel)


_changing = threading.Lock()
"""A change reads the file, and writes it as a whole: of two at once one would be lost. Of processes see `locked`."""


class Settings(BaseSettings):
    """All settings. The kernel's sections are attributes; `section` finds those of plugins too."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        env_parse_none_str="null",
        extra="forbid",
    )

    folders: FolderSettings = Field(default_factory=FolderSettings)
    plugins: PluginSettings = Field(default_factory=PluginSettings)
    nodes: NodeSettings = Field(default_factory=NodeSettings)
    execution: ExecutionSettings = Field(default_factory=ExecutionSettings)
    jobs: JobSettings = Field(default_factory=JobSettings)
    logging: LogSettings = Field(default_factory=LogSettings)

    _layers: Layers | None = PrivateAttr(default=None)
    _listeners: list[Callable[[str], None]] = PrivateAttr(default_factory=list)

    @overload
    def section(self, name: str) -> Any: ...
    @overload
    def section(self, name: str, model: type[S]) -> S: ...
    def section(self, name: str, model: type[BaseModel] = BaseModel) -> BaseModel:
        """A section by name; give its model to have it typed. Raises KeyError for an unknown name."""
        if name not in type(self).model_fields:
            raise KeyError(f"there is no settings section {name!r}")
        section = getattr(self, name)
        if not isinstance(section, model):
            raise TypeError(f"the settings section {name!r} is a {type(section).__name__}")
        return section

    def source(self, key: str) -> str:
        """What gave `section.field` its value: a file and line, a variable, an option, or `default`."""
        return (self._layers and self._layers.where(key.split("."))) or "default"

    def change(self, key: str, value: Any) -> None:
        """Give `section.field` another value, at once and in the configuration file; None: its default again.

        The file keeps its comments and its layout. Who looks at the setting when it counts sees the new value, who
        looked at the start does not. From any thread; it waits for the disk. Raises SettingsError for a key that there
        is not, a value that is not allowed, and where an option or a variable sets the key, since that would win at the
        next start; OSError when the file cannot be written, or another process holds it for too long. Then nothing was
        changed.
        """
        with _changing:
            self._change(key, value)
        for listener in tuple(self._listeners):
            listener(key)

    def _change(self, key: str, value: Any) -> None:
        section, _, name = key.partition(".")
        self._model_of(section, name)
        layers = self._layers
        if layers is None or layers.file.path is None:
            raise SettingsError([f"{key}: these settings were read from no file, so none can be changed"])
        if stronger := layers.stronger_than_file([section, name]):
            raise SettingsError([f"{key}: {stronger} sets it; change it there, or take it away there"])
        with locked(layers.file.path):
            self._change_file(layers, layers.file.path, section, name, value)

    def _change_file(self, layers: Layers, path: Path, section: str, name: str, value: Any) -> None:
        model = self._model_of(section, name)
        try:
            file = ConfigFile.read(path)  # it may have been edited since
            plain = None if value is None else self._plain(layers, file, section, name, value)
            changed = Layers(type(self), file.changed(section, name, plain), layers.overrides)
        except ValueError as error:
            raise SettingsError([str(error)]) from error
        try:
            new = model.model_validate(changed.merged(section))
        except ValidationError as error:
            raise SettingsError(changed.explain(error, section)) from error
        if changed.file.text != file.text:
            changed.file.write()
        changed.file.edited = None
        self._layers = changed
        current = getattr(self, section)
        for field in model.model_fields:  # in place: others hold the section
            setattr(current, field, getattr(new, field))

    def listen(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call `listener` with each key that is changed. Returns what ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _model_of(self, section: str, name: str) -> type[BaseModel]:
        """The section's model. Raises SettingsError when there is no such key."""
        field = type(self).model_fields.get(section)
        model: Any = None if field is None else field.annotation
        if model is None:
            hint = did_you_mean(section, type(self).model_fields) or ";"
            known = ", ".join(sorted(type(self).model_fields))
            raise SettingsError([f"there is no section {section!r}{hint} the sections are {known}"])
        if name not in model.model_fields:
            hint = did_you_mean(name, model.model_fields) or ";"
            raise SettingsError(
                [f"there is no key {section}.{name}{hint} [{section}] has {', '.join(model.model_fields)}"]
            )
        return model

    def _plain(self, layers: Layers, file: ConfigFile, section: str, name: str, value: Any) -> Any:
        """The value as the file is to have it. Raises SettingsError when it is not allowed."""
        model = self._model_of(section, name)
        if isinstance(value, str):
            value = parse_text(model.model_fields[name].annotation, value)
        before = Layers(type(self), file, layers.overrides).merged(section)
        try:
            valid = model.model_validate({**before, name: value})
        except ValidationError as error:
            lines = [
                f"{section}.{name}: {value!r}: {detail['msg']}"
                for detail in error.errors(include_url=False)
                if detail["loc"][:1] in ((name,), ())
            ]
            raise SettingsError(lines or layers.explain(error, section)) from error
        return valid.model_dump(mode="json", include={name})[name]

    def make_folders(self) -> Folders:
        """The folder registry that these settings describe. Raises SettingsError for bad extra paths."""
        given = self.folders
        folders = Folders(
            given.base,
            input=given.input,
            output=given.output,
            temp=given.temp,
            user=given.user,
            models=given.models,
        )
        standard = given.base / "extra_model_paths.yaml"
        try:
            for file in [*([standard] if standard.is_file() else []), *given.extra_model_paths]:
                folders.load_extra_paths(file)
        except ValueError as error:
            raise SettingsError([str(error)]) from error
        return folders


# --- loading -----------------------------------------------------------------------------------------------


class AskedForSections(Protocol):
    """What reading the settings asks of the plugins (`comfyk.Plugins`)."""

    def call_each(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]: ...
    def record(self, name: str, hook: str, error: BaseException) -> None: ...
    def names(self, *states: Any) -> list[str]: ...


def plugin_sections(plugins: AskedForSections) -> dict[str, type[BaseModel]]:
    """The sections of all plugins. What cannot be a section is recorded as the plugin's error."""
    sections: dict[str, type[BaseModel]] = {}
    hook = "comfyk_register_settings"
    for plugin, models in plugins.call_each(hook):
        try:
            for name, model in models.items():
                required = [field for field, info in model.model_fields.items() if info.is_required()]
                if not name.isidentifier() or name.startswith("_") or name != name.lower() or "__" in name:
                    raise ValueError(f"{name!r} cannot name a section; use lowercase letters, digits and _")
                if name in sections or name in Settings.model_fields or hasattr(Settings, name):
                    raise ValueError(f"there is a section {name!r} already")
                if required:
                    raise ValueError(f"section {name!r}: no default for {', '.join(required)}")
                sections[name] = model
        except (AttributeError, ValueError) as error:
            plugins.record(plugin, hook, error)
    return sections


def disabled_plugins(toml: Path | None, overrides: Mapping[str, Any]) -> list[str]:
    """`plugins.disabled`, which must be known before the plugins are there. Raises SettingsError."""
    layers = Layers.read(Settings, toml, overrides)
    try:
        disabled = layers.merged("plugins").get("disabled", [])
        return PluginSettings.model_validate({"disabled": disabled}).disabled
    except ValidationError as error:
        raise SettingsError(layers.explain(error, "plugins")) from error


def load_settings(
    plugins: AskedForSections, *, toml: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Read all settings.

    `toml` is the configuration file (may be absent); `overrides` maps `section.field` to a value, or to an
    `Override` that says where it is from. Raises SettingsError with everything that is wrong.
    """
    fields: dict[str, Any] = {
        name: (model, Field(default_factory=model)) for name, model in plugin_sections(plugins).items()
    }
    model = create_model("Settings", __base__=Settings, **fields)
    layers = Layers.read(model, toml, overrides or {})
    layers.take_unknown(plugins.names("disabled", "failed"))

    def sources(
        cls: type[BaseSettings], settings_cls: type[BaseSettings], **_: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return tuple(InitSettingsSource(settings_cls, layer) for layer in layers.data)

    model.settings_customise_sources = classmethod(sources)  # type: ignore[method-assign]
    try:
        settings = model()
    except ValidationError as error:
        raise SettingsError([*layers.problems, *layers.explain(error)]) from error
    if layers.problems:
        raise SettingsError(layers.problems)
    settings._layers = layers
    return settings
