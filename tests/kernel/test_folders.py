"""Where files are found, and that a name from outside never leads out of its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from comfyk.folders import (
    Folders,
    PathOutsideError,
    entries_of,
    is_file,
    is_folder,
    resolve_inside,
    split_annotation,
    walk,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

pieces = st.sampled_from(
    ["..", ".", "a", "b.png", "", "/", "\\", "//", "~", "C:", "nul", "CON.txt", "a\0b", "link", "é"]
)
names = (
    st.lists(pieces, max_size=6).map("/".join)
    | st.lists(pieces, max_size=6).map("\\".join)
    | st.text(max_size=20)
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a link that leads out of it, next to a file that must not be reached."""
    (tmp_path / "secret.txt").write_text("secret")
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "b.png").write_text("picture")
    (root / "link").symlink_to(tmp_path)
    (root / "inner").symlink_to(root / "a")
    return root


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(names, min_size=1, max_size=3))
@example(["../secret.txt"])
@example(["link/secret.txt"])
@example(["a", "../../secret.txt"])
@example(["..\\secret.txt"])
@example(["\\\\server\\share"])
@example(["//server/share"])
@example(["x" * 300])
def test_no_name_leads_out(root, parts):
    try:
        path = resolve_inside(root, *parts)
    except PathOutsideError:
        return
    real = os.path.realpath(path)
    assert real == str(root) or real.startswith(str(root) + os.sep)


@pytest.mark.parametrize(
    "name",
    ["..", "../x", "a/../../x", "/etc/passwd", "\\x", "C:\\x", "c:x", "a\0", "link/secret.txt", "link", "nul",
     "COM1.png", "a/LPT9", "x" * 256, "\n"],
)  # fmt: skip
def test_names_that_are_refused(root, name):
    with pytest.raises(PathOutsideError):
        resolve_inside(root, name)


@pytest.mark.parametrize(
    "name",
    ["new.png", "a/b.png", "a//b.png", "./a/b.png", "a\\b.png", "inner/b.png", "a b (1).png", "...", "..a",
     "nullable.png", "%2e%2e"],
)  # fmt: skip
def test_names_that_are_fine(root, name):
    assert resolve_inside(root, name).is_relative_to(root)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("photo.png", ("photo.png", None)),
        ("photo.png [output]", ("photo.png", "output")),
        ("a/photo.png[temp]", ("a/photo.png", "temp")),
        ("photo [1].png", ("photo [1].png", None)),
        ("photo.png [models]", ("photo.png [models]", None)),
        (" [input]", ("", "input")),
    ],
)
def test_annotations(name, expected):
    assert split_annotation(name) == expected


def test_an_annotated_name_is_found_in_its_folder(tmp_path):
    folders = Folders(tmp_path)
    assert folders.annotated("a.png") == tmp_path / "input" / "a.png"
    assert folders.annotated("s/a.png [output]") == tmp_path / "output" / "s" / "a.png"
    with pytest.raises(PathOutsideError):
        folders.annotated("../a.png [temp]")
    with pytest.raises(ValueError, match="models"):
        folders.directory("models")


@pytest.fixture
def folders(tmp_path):
    folders = Folders(tmp_path)
    checkpoints = tmp_path / "models" / "checkpoints"
    (checkpoints / "sd" / ".git").mkdir(parents=True)
    (checkpoints / "b.safetensors").touch()
    (checkpoints / "sd" / "a.CKPT").touch()
    (checkpoints / "sd" / "notes.txt").touch()
    (checkpoints / "sd" / ".git" / "c.safetensors").touch()
    return folders


def test_models_are_listed_by_extension_and_found(folders, tmp_path):
    assert folders.filenames("checkpoints") == ["b.safetensors", "sd/a.CKPT"]
    assert folders.find("checkpoints", "sd/a.CKPT") == tmp_path / "models" / "checkpoints" / "sd" / "a.CKPT"
    for name in ("none.ckpt", "../checkpoints/b.safetensors", "/etc/passwd", "", "sd"):
        assert folders.find("checkpoints", name) is None
    assert folders.find("unknown kind", "b.safetensors") is None
    with pytest.raises(KeyError):
        folders.filenames("unknown kind")


def test_a_listing_notices_new_and_removed_files(folders, tmp_path):
    place = tmp_path / "models" / "checkpoints"
    folders.filenames("checkpoints")
    (place / "sd" / "new.safetensors").touch()
    assert "sd/new.safetensors" in folders.filenames("checkpoints")
    (place / "b.safetensors").unlink()
    assert "b.safetensors" not in folders.filenames("checkpoints")


def test_a_folder_that_appears_later_is_listed(tmp_path):
    folders = Folders(tmp_path)
    assert folders.filenames("loras") == []
    (tmp_path / "models" / "loras").mkdir(parents=True)
    (tmp_path / "models" / "loras" / "x.safetensors").touch()
    assert folders.filenames("loras") == ["x.safetensors"]


def test_links_may_lead_to_other_disks_and_round_in_circles(folders, tmp_path):
    other = tmp_path / "other disk"
    other.mkdir()
    (other / "far.safetensors").touch()
    place = tmp_path / "models" / "checkpoints"
    (place / "far").symlink_to(other)
    (place / "sd" / "up").symlink_to(place)
    assert "far/far.safetensors" in folders.filenames("checkpoints")
    assert folders.find("checkpoints", "far/far.safetensors") is not None


def test_old_names_of_kinds(tmp_path):
    folders = Folders(tmp_path)
    assert folders.paths("unet") == folders.paths("diffusion_models")
    assert folders.paths("clip") == [tmp_path / "models" / "text_encoders", tmp_path / "models" / "clip"]


def test_extra_model_paths(tmp_path):
    file = tmp_path / "extra.yaml"
    file.write_text(
        "webui:\n"
        "  base_path: webui\n"
        "  checkpoints: models/Stable-diffusion\n"
        "  loras: |\n"
        "    models/Lora\n"
        "    models/LyCORIS\n"
        "mine:\n"
        "  base_path: /mine\n"
        "  is_default: true\n"
        "  checkpoints: |\n"
        "    first\n"
        "    second\n"
        "  my_kind: stuff\n"
        "empty:\n"
    )
    folders = Folders(tmp_path)
    folders.load_extra_paths(file)
    assert folders.paths("checkpoints") == [
        Path("/mine/first"),
        Path("/mine/second"),
        tmp_path / "models" / "checkpoints",
        tmp_path / "webui" / "models" / "Stable-diffusion",
    ]
    assert folders.paths("loras")[1:] == [tmp_path / "webui/models/Lora", tmp_path / "webui/models/LyCORIS"]
    assert folders.paths("my_kind") == [Path("/mine/stuff")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- a", "expected sections"),
        ("a: text", "'a' holds no folders"),
        ("a:\n  loras: [x]", "a.loras"),
    ],
)
def test_extra_model_paths_that_cannot_be_read_name_the_file(tmp_path, text, message):
    file = tmp_path / "extra.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        Folders(tmp_path).load_extra_paths(file)
    assert str(file) in str(error.value)
    with pytest.raises(ValueError, match="cannot be read"):
        Folders(tmp_path).load_extra_paths(tmp_path / "absent.yaml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_extra_model_paths_are_read_in_the_encodings_of_editors(tmp_path, encoding):
    file = tmp_path / "extra.yaml"
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    file.write_bytes(f"{mark}a:\n  loras: Modèles/絵\n".encode(encoding))
    folders = Folders(tmp_path)
    folders.load_extra_paths(file)
    assert folders.paths("loras")[1:] == [tmp_path / "Modèles" / "絵"]


def test_extra_model_paths_in_another_encoding_name_the_file_and_the_line(tmp_path):
    file = tmp_path / "extra.yaml"
    file.write_bytes("a:\n  loras: Modèles\n".encode("cp1252"))
    with pytest.raises(ValueError, match="line 2 is not in UTF-8") as error:
        Folders(tmp_path).load_extra_paths(file)
    assert str(file) in str(error.value)


def test_a_folder_of_extra_model_paths_that_is_not_there_is_told(tmp_path, caplog):
    (tmp_path / "here").mkdir()
    file = tmp_path / "extra.yaml"
    file.write_text("a:\n  loras: |\n    here\n    gone\n")
    folders = Folders(tmp_path)
    folders.load_extra_paths(file)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert str(file) in warning and str(tmp_path / "gone") in warning and "a.loras" in warning
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "late.safetensors").touch()
    assert folders.filenames("loras") == ["late.safetensors"]


def test_files_are_known_by_the_folder_that_they_are_in(folders, tmp_path):
    second = tmp_path / "second"
    second.mkdir()
    (second / "b.safetensors").touch()
    (second / "z.ckpt").touch()
    folders.add("checkpoints", second)
    first = tmp_path / "models" / "checkpoints"
    assert folders.files("checkpoints") == [
        (first, ["b.safetensors", "sd/a.CKPT"]),
        (second, ["b.safetensors", "z.ckpt"]),
    ]
    assert folders.filenames("checkpoints") == ["b.safetensors", "sd/a.CKPT", "z.ckpt"]
    folders.add("notes", first, extensions={".txt"})  # another kind in the same folder
    assert folders.filenames("notes") == ["sd/notes.txt"]
    assert folders.filenames("checkpoints") == ["b.safetensors", "sd/a.CKPT", "z.ckpt"]


def test_what_a_reference_means_is_asked_for_and_nothing_else(tmp_path):
    folders, asked = Folders(tmp_path), []

    def resolve(name):
        asked.append(name)
        return tmp_path / "elsewhere" if name == "blake3:abc" else None

    folders.resolve_with(resolve)
    assert folders.annotated("blake3:abc") == tmp_path / "elsewhere"
    assert folders.annotated("blake3:abc [output]", "temp", "sub") == tmp_path / "elsewhere"
    assert folders.annotated("cat:b.png", "temp", "sub") == tmp_path / "temp/sub/cat:b.png"
    assert folders.annotated("plain.png", "output", "sub") == tmp_path / "output/sub/plain.png"
    assert folders.annotated("sub/xy:z.png") == tmp_path / "input/sub/xy:z.png"
    assert asked == ["blake3:abc", "blake3:abc", "cat:b.png"]
    for wrong in ("blake3:x/../../y", "C:x", "C:\\x"):
        with pytest.raises(PathOutsideError):
            folders.annotated(wrong)
    with pytest.raises(ValueError, match="unknown folder type"):
        folders.annotated("plain.png", "models")


def unreadable(folder: Path, suffix: str = "") -> list[Path]:
    """Links that cannot be followed: in a circle, and for a reason that Python does not pass over either."""
    folder.mkdir(parents=True, exist_ok=True)
    loop, other, far = (folder / f"{name}{suffix}" for name in ("loop", "other", "far"))
    loop.symlink_to(other)
    other.symlink_to(loop)
    far.symlink_to("x" * 300)  # no name may be so long: EIO or EACCES would be no different
    return [loop, other, far]


def test_what_cannot_be_read_is_left_out_with_one_warning(tmp_path: Path, caplog) -> None:
    folders = Folders(tmp_path)
    models = folders.models / "checkpoints"
    bad = [*unreadable(models, ".safetensors"), *unreadable(models / "sub")]
    (models / "sub" / "good.safetensors").write_text("")
    (models / "sub" / "back").symlink_to(models)
    (models / "nowhere.safetensors").symlink_to(tmp_path / "nothing")
    for _ in range(3):
        assert folders.filenames("checkpoints") == ["sub/good.safetensors"]
        for path in bad:
            assert not is_file(path) and not is_folder(path)
    assert folders.find("checkpoints", "far.safetensors") is None
    for path in bad:
        assert caplog.text.count(f"{path} is left out") == 1
    # What can be read again is there again.
    (models / "far.safetensors").unlink()
    (models / "far.safetensors").write_text("")
    (tmp_path / "nothing").write_text("")
    assert folders.filenames("checkpoints") == [
        "far.safetensors",
        "nowhere.safetensors",
        "sub/good.safetensors",
    ]


def test_a_folder_is_walked_once_and_links_only_when_wanted(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "c").symlink_to(tmp_path / "a" / "b")
    walked = [(os.path.relpath(folder, tmp_path), files) for folder, _, files in walk(tmp_path)]
    assert sorted(files for _, files in walked) == [[], [], ["file"]]
    assert [os.path.relpath(folder, tmp_path) for folder, _, _ in walk(tmp_path, follow_links=False)] == [
        ".",
        "a",
        "a/b",
    ]
    assert list(walk(tmp_path / "nothing")) == [] and entries_of(tmp_path / "nothing") == []
