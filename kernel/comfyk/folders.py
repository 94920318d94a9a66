"""Where files are: models by kind, and the input, output, temp and user folders.

Plugins add kinds in `comfyk_register_folders`. Whatever names a file and comes from outside goes through
`Folders.find` or `resolve_inside`, which never leave the folder.
"""

from __future__ import annotations

import codecs
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml

from comfyk.folder_entries import entries_of, is_file, is_folder, walk

__all__ = [
    "MODEL_EXTENSIONS",
    "FolderKind",
    "FolderType",
    "Folders",
    "PathOutsideError",
    "entries_of",
    "is_file",
    "is_folder",
    "is_reference",
    "join_names",
    "resolve_inside",
    "split_annotation",
    "walk",
]

log = logging.getLogger(__name__)

FolderType = Literal["input", "output", "temp"]

MODEL_EXTENSIONS = frozenset({".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"})

# The kinds that ComfyUI knows, with the folder names under `models/` that each is found in.
_MODEL_KINDS: dict[str, tuple[str, ...]] = {
    kind: (kind,)
    for kind in (
        "checkpoints", "loras", "vae", "clip_vision", "style_models", "embeddings", "vae_approx", "gligen",
        "upscale_models", "latent_upscale_models", "hypernetworks", "photomaker", "model_patches",
        "audio_encoders", "background_removal", "frame_interpolation", "geometry_estimation", "optical_flow",
        "detection",
    )
} | {
    "text_encoders": ("text_encoders", "clip"),
    "diffusion_models": ("unet", "diffusion_models"),
    "controlnet": ("controlnet", "t2i_adapter"),
}  # fmt: skip
_OTHER_KINDS: dict[str, frozenset[str]] = {
    "configs": frozenset({".yaml"}),
    "diffusers": frozenset({"folder"}),
    "classifiers": frozenset({""}),
}
_LEGACY_KINDS = {"unet": "diffusion_models", "clip": "text_encoders"}

_CLOCK_TICK_NS = 50_000_000
_DEEPEST = 200
"""Folders in a path from outside; Python makes them by recursion."""

_ANNOTATION = re.compile(r"^(?P<name>.*?) ?\[(?P<type>input|output|temp)\]$", re.DOTALL)
_REFERENCE = re.compile(r"[a-z][a-z0-9+.-]+:.")
_WINDOWS_DEVICE = re.compile(
    r"^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\.|$)", re.IGNORECASE
)


class PathOutsideError(ValueError):
    """A path from outside leaves the folder it was given for, or is no file name at all."""


def resolve_inside(root: Path, *parts: str) -> Path:
    """Join untrusted `parts` to `root` and resolve links.

    Raises PathOutsideError for absolute paths, `..`, drives, device names, NUL, names over 255 bytes, and for
    symbolic links that lead out of the folder. The file need not exist.
    """
    path = root
    if sum(part.count("/") + part.count("\\") for part in parts) > _DEEPEST:
        raise PathOutsideError(f"a path has at most {_DEEPEST} folders")
    for part in parts:
        for name in part.replace("\\", "/").split("/"):
            if name in ("", "."):
                continue
            _check_name(name, part)
            path = path / name
        if part.startswith(("/", "\\")):
            raise PathOutsideError(f"{part!r} is an absolute path; give one relative to the folder")
    real_root = os.path.realpath(root)
    real = os.path.realpath(path)
    if real != real_root and not real.startswith(real_root.rstrip(os.sep) + os.sep):
        raise PathOutsideError(f"{'/'.join(parts)!r} is outside of the folder")
    return path


def _check_name(name: str, whole: str) -> None:
    if name == "..":
        raise PathOutsideError(f"{whole!r} contains '..'")
    if any(ord(c) < 32 for c in name) or len(name.encode("utf-8", "surrogatepass")) > 255:
        raise PathOutsideError(f"{whole!r} is not a file name")
    if re.search(r"[\ud800-\udfff]", name):
        raise PathOutsideError(f"{whole!r} is not a file name")
    if re.match(r"^[A-Za-z]:", name) or _WINDOWS_DEVICE.match(name):
        raise PathOutsideError(f"{whole!r} names a drive or a device")
    if sys.platform == "win32" and (re.search(r'[<>:"|?*]', name) or name.endswith((".", " "))):
        raise PathOutsideError(f"{whole!r} is not a file name on Windows")


def split_annotation(name: str) -> tuple[str, FolderType | None]:
    """`"photo.png [output]"` -> `("photo.png", "output")`; without an annotation the type is None."""
    match = _ANNOTATION.match(name)
    if match is None:
        return name, None
    return match["name"], match["type"]  # type: ignore[return-value]


def is_reference(name: str) -> bool:
    """Whether a name has a scheme, as `blake3:...` does, and so may mean a file that only a plugin knows."""
    return _REFERENCE.match(name) is not None


@dataclass(slots=True)
class FolderKind:
    """One kind of files: where it is looked for, in order, and which extensions count (none: all)."""

    paths: list[Path] = field(default_factory=list)
    extensions: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Listing:
    """The files under one folder, good while none of its directories changes."""

    names: list[str]
    directories: dict[str, int]
    """Directory -> mtime in ns. 0: not there yet."""
    settled: bool
    """Whether the directories were last changed long enough before. A file that came right after the listing
    may have left the mtime as it was, since clocks of file systems tick slowly."""

    @property
    def holds(self) -> bool:
        return self.settled and all(_mtime(path) == mtime for path, mtime in self.directories.items())


class Folders:
    """The folder registry. Paths may be missing on disk: an absent folder simply holds no files."""

    def __init__(
        self,
        base: Path,
        *,
        input: Path | None = None,
        output: Path | None = None,
        temp: Path | None = None,
        user: Path | None = None,
        models: Path | None = None,
    ) -> None:
        self.base = base
        self.input = input or base / "input"
        self.output = output or base / "output"
        self.temp = temp or base / "temp"
        self.user = user or base / "user"
        self.models = models or base / "models"
        self.kinds: dict[str, FolderKind] = {}
        self.extra: list[tuple[Path, str, Path]] = []
        """What `extra_model_paths.yaml` files add: the file, the kind, the folder."""
        self._listings: dict[tuple[Path, frozenset[str]], _Listing] = {}
        self._resolve: Callable[[str], Path | None] = lambda name: None
        for kind, names in _MODEL_KINDS.items():
            for name in names:
                self.add(kind, self.models / name, extensions=MODEL_EXTENSIONS)
        for kind, extensions in _OTHER_KINDS.items():
            self.add(kind, self.models / kind, extensions=extensions)
        self.add("custom_nodes", base / "custom_nodes")
        self.add("datasets", base / "datasets")

    def create(self) -> None:
        """Make the folders that the server writes to. Raises OSError when it cannot."""
        for path in (self.input, self.output, self.temp, self.user):
            path.mkdir(parents=True, exist_ok=True)

    def create_for_models(self) -> None:
        """Make the folder for packs, and those for models of each kind if there is no folder of models at all.

        A folder of models that is there already belongs to the user, who has those that he wants. Raises OSError.
        """
        for path in self.kinds["custom_nodes"].paths[:1]:
            path.mkdir(parents=True, exist_ok=True)
        if self.models.exists():
            return
        for kind, entry in self.kinds.items():
            if self.models / kind in entry.paths:
                (self.models / kind).mkdir(parents=True, exist_ok=True)

    def add(
        self, kind: str, path: Path, *, extensions: Iterable[str] | None = None, default: bool = False
    ) -> None:
        """Look for files of this kind in `path` too; first of all with `default`."""
        entry = self.kinds.setdefault(self.canonical(kind), FolderKind())
        if extensions is not None:
            entry.extensions = entry.extensions | frozenset(extensions)
        if path in entry.paths:
            if default:
                entry.paths.remove(path)
                entry.paths.insert(0, path)
        else:
            entry.paths.insert(0 if default else len(entry.paths), path)

    @staticmethod
    def canonical(kind: str) -> str:
        """Today's name of a kind: `unet` is `diffusion_models`, `clip` is `text_encoders`."""
        return _LEGACY_KINDS.get(kind, kind)

    def directory(self, type: str | None) -> Path:
        """The input, output or temp folder. Raises ValueError for any other type."""
        match type:
            case "input":
                return self.input
            case "output":
                return self.output
            case "temp":
                return self.temp
        raise ValueError(f"unknown folder type {type!r}; it is one of input, output and temp")

    def paths(self, kind: str) -> list[Path]:
        """Where this kind is looked for. Raises KeyError for an unknown kind."""
        return list(self.kinds[self.canonical(kind)].paths)

    def filenames(self, kind: str) -> list[str]:
        """The files of this kind, as sorted paths relative to their folder, with `/` between names.

        What was found is kept until a folder changes. Raises KeyError for an unknown kind.
        """
        filled = [names for _, names in self.files(kind) if names]
        return filled[0] if len(filled) == 1 else sorted({name for names in filled for name in names})

    def files(self, kind: str) -> list[tuple[Path, list[str]]]:
        """The same folder by folder: each with its sorted names. Raises KeyError."""
        entry = self.kinds[self.canonical(kind)]
        return [(root, self._names(root, entry.extensions)) for root in entry.paths]

    def _names(self, root: Path, extensions: frozenset[str]) -> list[str]:
        listing = self._listings.get((root, extensions))
        if listing is None or not listing.holds:
            listing = self._listings[root, extensions] = _list_files(root, extensions)
        return list(listing.names)

    def find(self, kind: str, filename: str) -> Path | None:
        """The first file of this name among the kind's folders, or None. `filename` may come from outside."""
        entry = self.kinds.get(self.canonical(kind))
        if entry is None:
            return None
        for root in entry.paths:
            # Model folders are the user's own and often hold links to other disks, so links may lead out.
            with suppress(PathOutsideError):
                path = join_names(root, filename)
                if is_file(path):
                    return path
        return None

    def annotated(self, name: str, default: str = "input", subfolder: str = "") -> Path:
        """The path for a name such as `sub/photo.png [temp]`, or what a reference such as `blake3:...` means.

        The annotation counts more than `default`. May block on a reference, which plugins look up. Raises
        PathOutsideError, and ValueError for a `default` that is no folder's.
        """
        filename, type = split_annotation(name)
        if is_reference(filename) and (path := self._resolve(filename)) is not None:
            return path
        return resolve_inside(self.directory(type or default), subfolder, filename)

    def resolve_with(self, resolve: Callable[[str], Path | None]) -> None:
        """Ask this function for the files that references mean; None: it is the name of a file after all."""
        self._resolve = resolve

    def load_extra_paths(self, file: Path) -> None:
        """Add the folders of an `extra_model_paths.yaml`.

        Raises ValueError that names the file and the key when it cannot be read that way.
        """
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ValueError(f"{file}: cannot be read: {error.strerror}") from error
        try:
            wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            config = yaml.safe_load(data.decode("utf-16" if wide else "utf-8-sig"))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise ValueError(
                f"{file}: line {line} is not in UTF-8; save the file as UTF-8 in your editor"
            ) from error
        except yaml.YAMLError as error:
            raise ValueError(f"{file}: not valid YAML: {error}") from error
        if config is None:
            return
        if not isinstance(config, dict):
            raise ValueError(f"{file}: expected sections such as `comfyui:` at the top")
        for section, entries in config.items():
            if entries is None:
                continue
            if not isinstance(entries, dict):
                raise ValueError(f"{file}: section {section!r} holds no folders")
            self._add_extra_section(file, str(section), entries)

    def _add_extra_section(self, file: Path, section: str, entries: Mapping[str, Any]) -> None:
        entries = dict(entries)
        base = entries.pop("base_path", None)
        default = bool(entries.pop("is_default", False))
        root = file.parent.absolute()
        if base is not None:
            root = root / os.path.expandvars(os.path.expanduser(str(base)))
        for kind, lines in entries.items():
            if not isinstance(lines, str):
                raise ValueError(
                    f"{file}: {section}.{kind}: expected a folder, or several on lines of their own"
                )
            folders = [line.strip() for line in lines.splitlines() if line.strip()]
            for folder in reversed(folders) if default else folders:
                path = Path(os.path.normpath(root / folder))
                if path.is_dir():
                    log.info("adding extra search path %s %s", kind, path)
                else:
                    log.warning("%s: %s.%s: there is no folder %s (yet)", file, section, kind, path)
                self.add(kind, path, default=default)
                self.extra.append((file, kind, path))


def join_names(root: Path, filename: str) -> Path:
    """Join a name from outside to a folder of models: unlike with `resolve_inside`, links there may lead out of it.

    Raises PathOutsideError.
    """
    names = [name for name in filename.replace("\\", "/").split("/") if name not in ("", ".")]
    if not names or filename.startswith(("/", "\\")):
        raise PathOutsideError(f"{filename!r} is not a relative file name")
    for name in names:
        _check_name(name, filename)
    return root.joinpath(*names)


def _mtime(directory: str) -> int:
    try:
        return os.stat(directory).st_mtime_ns
    except OSError:
        return 0


def _list_files(root: Path, extensions: frozenset[str]) -> _Listing:
    top = str(root)
    names: list[str] = []
    directories = {top: _mtime(top)}
    begun = time.time_ns()
    left_out: list[str] = []
    for folder, subfolders, files in walk(top, left_out=left_out):
        subfolders[:] = [name for name in subfolders if name != ".git"]
        directories[folder] = _mtime(folder)
        relative = PurePosixPath(os.path.relpath(folder, top).replace(os.sep, "/"))
        if "folder" in extensions:
            names += (str(relative / name) for name in subfolders)
        for name in files:
            if not extensions or os.path.splitext(name)[1].lower() in extensions:
                names.append(str(relative / name))
    # What could not be read may come back without a word.
    settled = not left_out and max(directories.values()) < begun - _CLOCK_TICK_NS
    return _Listing(sorted(names), directories, settled)
