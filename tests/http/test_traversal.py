"""Names from outside never lead out of the folders: nothing there is read, written, listed or removed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

FACTS: dict[str, Any] = json.loads(Path(__file__).with_name("comfyui_api.json").read_text())
SECRET = b"the secret of another folder"
OUTSIDE = ("secret.txt", "secret.json", "secret.png", "secret.safetensors")


@pytest.fixture
async def trapped(start: Any, tmp_path: Path) -> Any:
    """A server in `tmp_path/base`, with secrets beside it and links that lead to them."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in OUTSIDE:
        (outside / name).write_bytes(SECRET)
    header = json.dumps({"__metadata__": {"secret": SECRET.decode()}}).encode()
    (outside / "secret.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    server = await start()
    folders = server.app.folders
    pack = tmp_path / "custom_nodes" / "pack"
    for folder in (folders.input, folders.output, folders.temp, folders.user / "default", pack / "example_workflows",
                   pack / "subgraphs", pack / "web"):  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "link").symlink_to(outside)
        for name in OUTSIDE:
            (folder / f"link-{name}").symlink_to(outside / name)
    models = folders.models / "loras"
    models.mkdir(parents=True)
    (models / "model.png").symlink_to(outside / "secret.png")
    (models / "model.safetensors").write_bytes(b"")
    await server.app.packs.load_pack(pack)
    server.app.web_directories["pack"] = pack / "web"
    server.outside = outside
    return server


def names(outside: Path) -> Iterator[str]:
    """The corpus, already decoded once: what a server sees of a parameter."""
    for target in ("secret.txt", "secret.json", "secret.safetensors"):
        for up in ("../", "..\\", "....//", "..;/", "%2e%2e/", "%2e%2e%2f", "%252e%252e%252f", "..%5c", "..%c0%af",
                   "\uff0e\uff0e/", "..\u2215", "./../", "a/../../", "x\\..\\..\\"):  # fmt: skip
            for depth in (1, 2, 3, 5):
                yield f"{up * depth}outside/{target}"
        yield f"{outside}/{target}"
        yield f"/{outside}/{target}"
        yield f"{outside}/{target}".replace("/", "\\")
        yield f"file://{outside}/{target}"
        yield f"\\\\localhost\\{outside}\\{target}"
        yield f"\\\\?\\{outside}\\{target}"
        yield f"//localhost{outside}/{target}"
        yield f"C:{outside}/{target}"
        yield f"~/../..{outside}/{target}"
        yield f"link/{target}"
        yield f"link-{target}"
        yield f"./link/{target}"
        yield f"{outside}/{target}\x00.png"
        yield f"../outside/{target}\x00"
    yield from ("", ".", "..", "/", "\\", "\x00", "a\x00b", "\n", "con", "NUL.txt", "aux.json", "COM1", "lpt9.png",
                "CON.", "x" * 255, "x" * 256, "x" * 5000, "x/" * 2000, "é" * 128, "\ud800", "a:b", "file.txt::$DATA",
                "../" * 500, "/etc/passwd", "/proc/self/environ", "/dev/zero", "link", "link/")  # fmt: skip


def address(server: Any, path: str, encoded: str, query: str = "") -> URL:
    return URL(f"{server.url}{path.replace('NAME', encoded)}{query.replace('NAME', encoded)}", encoded=True)


def encodings(name: str) -> Iterator[str]:
    once = quote(name, safe="", errors="surrogatepass")
    yield once
    yield quote(once, safe="")  # twice


async def ask(server: Any, method: str, url: URL, **options: Any) -> tuple[int, bytes]:
    if len(str(url)) > 8000:
        return 400, b""  # aiohttp refuses the line
    async with server.client.request(method, url, allow_redirects=False, **options) as response:
        body = await response.read()
    assert response.status < 500, (method, url, body)
    assert SECRET not in body, (method, url)
    return response.status, body


def untouched(server: Any) -> None:
    assert sorted(os.listdir(server.outside)) == sorted(OUTSIDE)
    assert all(SECRET in (server.outside / name).read_bytes() for name in OUTSIDE)
    base = server.outside.parent
    assert set(os.listdir(base)) <= {"input", "output", "temp", "user", "models", "custom_nodes", "outside"}


READS = [
    ("/view", "?filename=NAME"),
    ("/view", "?filename=NAME&type=input"),
    ("/view", "?filename=NAME&type=temp&preview=webp"),
    ("/view", "?filename=NAME&channel=rgb"),
    ("/view", "?filename=NAME%20%5Binput%5D"),
    ("/view", "?filename=secret.txt&subfolder=NAME"),
    ("/view", "?filename=secret.txt&type=NAME"),
    ("/view_metadata/loras", "?filename=NAME"),
    ("/view_metadata/NAME", "?filename=secret.safetensors"),
    ("/userdata", "?dir=NAME&recurse=true&full_info=true"),
    ("/v2/userdata", "?path=NAME"),
    ("/userdata/NAME", ""),
    ("/models/NAME", ""),
    ("/experiment/models/NAME", ""),
    ("/experiment/models/preview/loras/0/NAME", ""),
    ("/experiment/models/preview/NAME/0/secret.safetensors", ""),
    ("/experiment/models/preview/loras/NAME/secret.safetensors", ""),
    ("/extensions/pack/NAME", ""),
    ("/extensions/NAME/secret.txt", ""),
    ("/workflow_templates/pack/NAME", ""),
    ("/workflow_templates/NAME/secret.json", ""),
    ("/global_subgraphs/NAME", ""),
    ("/internal/files/NAME", ""),
    ("/settings/NAME", ""),
]


WRITES = [
    ("POST", "/userdata/NAME"),
    ("POST", "/settings/NAME"),
    ("POST", "/userdata/own.json/move/NAME"),
    ("POST", "/userdata/NAME/move/got.json"),
    ("DELETE", "/userdata/NAME"),
]
FORM_FIELDS = ["image", "subfolder", "type", "original_ref"]
"""Of uploads: `image` is the file, whose name is meant."""
REFERENCE_FIELDS = ["filename", "subfolder", "type"]
"""Of `original_ref`."""
NO_FILES = {"Comfy-User", "prompt_id", "job_id", "hash", "node_class", "clientId", "preview", "channel", "recurse",
            "full_info", "split", "overwrite", "max_items", "offset", "limit", "sort_by", "sort_order", "status",
            "workflow_id"}  # fmt: skip
"""Parameters that name no file; of users there is a test below."""


def _tried(method: str, address: str) -> set[tuple[str, str]]:
    """The operations and parameters that an address of the corpus puts names into."""
    path, _, query = address.partition("?")
    found = set()
    for key in FACTS:
        how, _, template = key.partition(" ")
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template.removeprefix("/api"))
        if how == method and (match := re.fullmatch(pattern, path)):
            found |= {(key, name) for name, value in match.groupdict().items() if value == "NAME"}
            found |= {(key, name) for name in re.findall(r"(\w+)=NAME", query)}
    return found


def test_every_parameter_that_names_a_file_is_tried() -> None:
    corpus = [("GET", path + query) for path, query in READS] + WRITES
    tried = set().union(*(_tried(method, address) for method, address in corpus))
    for key, facts in FACTS.items():
        for name, _, _ in facts.get("parameters", ()):
            assert name in NO_FILES or (key, name) in tried
        for name in facts.get("body", {}).get("multipart/form-data", {}):
            assert name in NO_FILES or name in FORM_FIELDS


@pytest.mark.parametrize(("path", "query"), READS)
async def test_nothing_outside_is_read(trapped: Any, path: str, query: str) -> None:
    for name in names(trapped.outside):
        for encoded in encodings(name):
            status, body = await ask(trapped, "GET", address(trapped, path, encoded, query))
            assert b"secret.txt" not in body or status >= 400 or "userdata" not in path, name
    untouched(trapped)


async def test_no_link_to_the_outside_is_listed(trapped: Any) -> None:
    for path in ("/userdata?dir=.&recurse=true", "/v2/userdata"):
        status, body = await ask(trapped, "GET", URL(trapped.url + path))
        assert (status, json.loads(body)) == (200, [])
    (trapped.app.web_directories["pack"] / "link.js").symlink_to(trapped.outside / "secret.txt")
    _, body = await ask(trapped, "GET", URL(trapped.url + "/extensions"))
    assert json.loads(body) == []
    for path in ("/workflow_templates", "/global_subgraphs"):
        _, body = await ask(trapped, "GET", URL(trapped.url + path))
        assert json.loads(body) == {}


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_nothing_outside_is_written_moved_or_deleted(trapped: Any, method: str, path: str) -> None:
    own = trapped.app.folders.user / "default" / "own.json"
    for name in names(trapped.outside):
        for encoded in encodings(name):
            own.write_bytes(b"1")
            await ask(trapped, method, address(trapped, path, encoded), data=b"1")
            await ask(trapped, "GET", address(trapped, "/userdata/got.json", ""))
            await ask(trapped, "DELETE", address(trapped, "/userdata/got.json", ""))
    untouched(trapped)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of aiohttp, about the names
@pytest.mark.parametrize("field", [*FORM_FIELDS[:-1], *(f"original_ref.{name}" for name in REFERENCE_FIELDS)])
async def test_no_upload_gets_out(trapped: Any, field: str) -> None:
    picture = trapped.picture()
    of_reference = field.removeprefix("original_ref.") if "." in field else None
    for path in ("/upload/mask",) if of_reference else ("/upload/image", "/upload/mask"):
        for name in names(trapped.outside):
            reference = {"filename": "secret.png", "type": "input"}
            if of_reference:
                reference[of_reference] = name
            form = aiohttp.FormData(quote_fields=False)
            try:
                form.add_field("image", picture, filename=name if field == "image" else "new.png")
                if field in ("subfolder", "type"):
                    form.add_field(field, name)
                if path == "/upload/mask":
                    form.add_field("original_ref", json.dumps(reference))
                await ask(trapped, "POST", URL(trapped.url + path), data=form)
            except (ValueError, TypeError):
                continue  # the client does not send such a name
    untouched(trapped)


async def test_users_cannot_leave_their_folder(start: Any, tmp_path: Path) -> None:
    server = await start(multi_user=True)
    for name in names(tmp_path / "outside"):
        await ask(server, "POST", URL(server.url + "/users"), json={"username": name})
        try:
            await ask(server, "GET", URL(server.url + "/settings"), headers={"Comfy-User": name})
        except (ValueError, TypeError):
            continue
    users = json.loads((server.app.folders.user / "users.json").read_text())
    for id in users:
        assert (
            await ask(server, "POST", URL(server.url + "/settings"), json={}, headers={"Comfy-User": id})
        )[0] == 200
        assert (server.app.folders.user / id).is_dir()
    assert set(os.listdir(tmp_path)) <= {"input", "output", "temp", "user"}
