"""What plugins add to the http plugin's own routes."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import aiohttp
import comfyk_http.plugin
import pytest
from comfyk import App, Plugins, current_app, hookimpl
from comfyk.settings import load_settings
from comfyk_http.tokens import Tokens


class Saved:
    """Is told of every upload, and adds to the answer."""

    def __init__(self) -> None:
        self.heard: list[tuple[Path, bytes, str, str]] = []

    @hookimpl
    async def comfyk_file_saved(self, path: Path, folder: str, user: str) -> dict[str, Any]:
        self.heard.append((path, path.read_bytes(), folder, user))
        return {"asset": {"id": len(self.heard)}, "name": "not this one"}


class Fails:
    @hookimpl
    async def comfyk_file_saved(self) -> None:
        raise RuntimeError("no")


async def test_plugins_hear_of_uploads_and_add_to_the_answer(start: Any, tmp_path: Path) -> None:
    plugin = Saved()
    server = await start(plugins=[plugin, Fails()])
    picture = server.picture()
    assert await server.upload(picture, "a.png", subfolder="s") == (
        200,
        {"name": "a.png", "subfolder": "s", "type": "input", "asset": {"id": 1}},
    )
    assert (await server.upload(b"other", "a.png", subfolder="s", type="output"))[1]["asset"] == {"id": 2}
    assert (await server.upload(b"another", "a.png", subfolder="s"))[1]["name"] == "a (1).png"
    form = aiohttp.FormData()
    form.add_field("image", picture, filename="mask.png")
    form.add_field("original_ref", json.dumps({"filename": "a.png", "subfolder": "s", "type": "input"}))
    assert (await server.post("/upload/mask", data=form))[1]["asset"] == {"id": 4}
    assert [heard[0].relative_to(tmp_path).as_posix() for heard in plugin.heard] == [
        "input/s/a.png",
        "output/s/a.png",
        "input/s/a (1).png",
        "input/mask.png",
    ]
    assert [heard[2] for heard in plugin.heard] == ["input", "output", "input", "input"]
    assert plugin.heard[0][1] == picture
    assert {heard[3] for heard in plugin.heard} == {"default"}
    assert (await server.upload(b"x", "../a.png"))[0] == 400
    assert len(plugin.heard) == 4


class Reads:
    """A node that reads a file of the input folder."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    CATEGORY = "test"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"file": ("STRING", {})}}

    def run(self, file: str) -> dict[str, Any]:
        return {"ui": {"text": [current_app().folders.annotated(file).read_text()]}}


class Resolver:
    """Knows files by their hashes."""

    def __init__(self, files: dict[str, Path]) -> None:
        self.files = files
        self.asked: list[str] = []

    @hookimpl
    def comfyk_register_nodes(self, app: App) -> None:
        app.nodes.add(Reads)

    @hookimpl
    def comfyk_resolve_file(self, name: str) -> Path | None:
        self.asked.append(name)
        return self.files.get(name)


async def test_names_that_only_a_plugin_knows(start: Any, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("found")
    gone = tmp_path / "gone"
    plugin = Resolver({"blake3:abc": elsewhere, "blake3:gone": gone})
    server = await start(plugins=[plugin])
    (tmp_path / "input/plain.txt").write_text("plain")
    assert await server.get("/view?filename=blake3:abc") == (200, b"found")
    assert await server.get("/view?filename=blake3:abc&type=input&subfolder=x") == (200, b"found")
    for unknown in ("blake3:none", "blake3:gone", "blake3:../../secret"):
        assert (await server.get(f"/view?filename={unknown}"))[0] == 404
    assert (await server.get("/view?filename=plain.txt&type=input"))[1] == b"plain"
    for name, text in (("blake3:abc", "found"), ("plain.txt", "plain")):
        entry = await server.run(server.single("Reads", file=name))
        assert entry["outputs"]["1"]["text"] == [text]
    assert "plain.txt" not in plugin.asked


class Flags:
    def __init__(self, flags: dict[str, Any]) -> None:
        self.flags = flags

    @hookimpl
    def comfyk_feature_flags(self) -> dict[str, Any]:
        return self.flags


async def test_flags_are_merged_in_depth(start: Any) -> None:
    server = await start(
        plugins=[
            Flags({"extension": {"manager": {"supports_v4": True}}, "assets": True}),
            Flags({"extension": {"manager": {"other": 1}, "mine": {}}}),
        ]
    )
    flags = (await server.get("/features"))[1]
    assert flags["extension"] == {"manager": {"supports_v4": True, "other": 1}, "mine": {}}
    assert flags["assets"] is True
    assert flags["supports_preview_metadata"] is True
    async with server.client.ws_connect("/ws") as ws:
        await ws.receive_json()
        await ws.send_json({"type": "feature_flags", "data": {}})
        assert (await ws.receive_json())["data"] == flags


async def test_flags_that_are_no_json_are_their_plugins_error(start: Any) -> None:
    endless: dict[str, Any] = {}
    endless["me"] = endless
    server = await start(plugins=[Flags(endless), Flags({"mine": 1}), Flags({"text": "\ud800"})])
    status, flags = await server.get("/features")
    assert status == 200 and flags["mine"] == 1 and "me" not in flags and "text" not in flags
    errors = {info.name: [error.hook for error in info.errors] for info in server.app.plugins.infos()}
    assert errors["plugin0"] == errors["plugin2"] == ["comfyk_feature_flags"]
    assert errors["plugin1"] == []


# --- doctor -------------------------------------------------------------------------------------------------------


def found(tmp_path: Path, **settings: Any) -> list[tuple[str, str]]:
    """What the plugin finds with these settings."""
    plugins = Plugins()
    plugins.register(comfyk_http.plugin, "http")
    overrides = {"folders.base": str(tmp_path), "http.port": 0}
    overrides |= {f"http.{name}": value for name, value in settings.items()}
    app = App(load_settings(plugins, overrides=overrides), plugins)
    return [(finding.severity, finding.message) for one in app.hook.comfyk_doctor() for finding in one]


def test_there_is_nothing_to_say_of_the_defaults(tmp_path: Path) -> None:
    assert found(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "severity", "says"),
    [
        ({"listen": "0.0.0.0"}, "error", "there is none: nobody gets in"),
        ({"listen": "0.0.0.0", "require_token": "never"}, "warning", "Everybody who can reach"),
        ({"cors_origin": "*"}, "warning", "every web site"),
        ({"allowed_hosts": ["*"]}, "warning", "DNS rebinding"),
        ({"tls_certfile": "none.pem"}, "error", "TLS needs both"),
        ({"tls_certfile": "none.pem", "tls_keyfile": "none.key"}, "error", "cannot use"),
        ({"listen": "no such host.invalid"}, "error", "no address of this machine"),
        ({"listen": "192.0.2.1"}, "error", "cannot listen"),
        ({"listen": ","}, "error", "no address to listen on"),
    ],
)
def test_what_is_wrong(tmp_path: Path, settings: dict[str, Any], severity: str, says: str) -> None:
    findings = found(tmp_path, **settings)
    assert [severity for severity, message in findings if says in message] == [severity], findings


def test_tokens_that_let_in(tmp_path: Path) -> None:
    Tokens(tmp_path / "user").create("me")
    assert found(tmp_path, listen="0.0.0.0") == []
    (tmp_path / "user/__comfyk/tokens.json").write_text("{broken")
    assert [message for _, message in found(tmp_path, listen="0.0.0.0") if "Nobody gets in" in message]


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        [(severity, message)] = found(tmp_path, port=port)
    assert (severity, f"port {port} on 127.0.0.1 is in use" in message) == ("info", True)
    assert found(tmp_path, port=port) == []
