"""What can be set: defaults < `comfyk.toml` < `COMFYK_*` environment variables < the command line.

A section is a pydantic model; the kernel's are in `comfyk.kernel_settings`, and each plugin adds its own in
`comfyk_register_settings`. A field may carry `Option`s: its names on the command line of `comfyk start`.

    class HttpSettings(Section):
        port: Annotated[int, Option("--port")] = Field(default=8188, description="The port to listen on.")

Without one it is still reached by `--set http.port=8188`, `COMFYK_HTTP__PORT=8188` and `[http] port = 8188`. A field
that had another key says so by `Formerly("server.port")`, so that old files and variables still count.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, create_model
from pydantic_settings import BaseSettings, InitSettingsSource, SettingsConfigDict

from comfyk.config_file import ConfigFile, locked
from comfyk.folders import Folders
from comfyk.kernel_settings import (
    ExecutionSettings,
    FolderSettings,
    JobSettings,
    LogSettings,
    NodeSettings,
    PluginSettings,
)
from comfyk.settings_fields import AbsolutePath, Option, Section
from comfyk.settings_sources import (
    ENV_PREFIX,
    Formerly,
    Layers,
    Override,
    SettingsError,
    no_key,
    no_section,
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
            raise SettingsError([no_section(section, type(self).model_fields)])
        if name not in model.model_fields:
            raise SettingsError([no_key(section, name, model.model_fields)])
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
