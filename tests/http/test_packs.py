"""What packs bring beside nodes, and the server's log."""

from __future__ import annotations

import json
import logging
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from comfyk import hookimpl
from comfyk.events import Message
from comfyk.io.node import NodeReplace
from comfyk_http.server_log import SERVER_LOG


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def make_pack(base: Path, name: str) -> Path:
    pack = base / "custom_nodes" / name
    write(pack / "__init__.py", "NODE_CLASS_MAPPINGS = {}\n")
    return pack


async def test_templates(start: Any, tmp_path: Path) -> None:
    pack = make_pack(tmp_path, "one")
    write(pack / "example_workflows" / "first.json", {"a": 1})
    write(pack / "example_workflows" / "first.jpg", "picture")
    write(pack / "workflows" / "second.json", {"b": 2})
    write(pack / "workflows" / "page.html", "<script>")
    make_pack(tmp_path, "none")
    write(make_pack(tmp_path, "off.disabled") / "workflows" / "x.json", {})
    server = await start()
    assert await server.get("/workflow_templates") == (200, {"one": ["first", "second"]})
    assert await server.get("/api/workflow_templates/one/first.json") == (200, {"a": 1})
    assert await server.get("/workflow_templates/one/first.jpg") == (200, b"picture")
    assert await server.get("/workflow_templates/one/second.json") == (200, {"b": 2})
    async with server.client.get("/workflow_templates/one/page.html") as response:
        assert response.content_type == "application/octet-stream"
    for wrong in ("one/none.json", "none/first.json", "one/..%2F__init__.py", "one/%2Fetc%2Fpasswd"):
        assert (await server.get(f"/workflow_templates/{wrong}"))[0] == 404


async def test_translations(start: Any, tmp_path: Path) -> None:
    one, two = make_pack(tmp_path, "one"), make_pack(tmp_path, "two")
    write(one / "locales" / "en" / "main.json", {"a": {"x": 1}, "list": [1]})
    write(one / "locales" / "en" / "nodeDefs.json", {"Node": {"title": "t"}})
    write(one / "locales" / "de" / "commands.json", {"c": "d"})
    write(two / "locales" / "en" / "main.json", {"a": {"y": 2}, "list": [2]})
    write(two / "locales" / "en" / "settings.json", "{broken")
    server = await start()
    assert await server.get("/i18n") == (
        200,
        {
            "en": {"a": {"x": 1, "y": 2}, "list": [1, 2], "nodeDefs": {"Node": {"title": "t"}}},
            "de": {"commands": {"c": "d"}},
        },
    )


async def test_subgraphs(start: Any, tmp_path: Path) -> None:
    write(make_pack(tmp_path, "one") / "subgraphs" / "blur.json", {"nodes": [1]})
    write(tmp_path / "blueprints" / "base.json", {"nodes": [2]})
    write(tmp_path / "added" / "more.json", {"nodes": [3]})

    class Blueprints:
        @hookimpl
        def comfyk_register_blueprints(self) -> list[Path]:
            return [tmp_path / "added"]

    server = await start(plugins=[Blueprints()])
    _, found = await server.get("/global_subgraphs")
    assert {(one["source"], one["name"], one["info"]["node_pack"]) for one in found.values()} == {
        ("custom_node", "blur", "custom_nodes.one"),
        ("templates", "base", "comfyui"),
        ("templates", "more", "comfyui"),
    }
    for id, info in found.items():
        _, whole = await server.get(f"/api/global_subgraphs/{id}")
        assert {**info, "data": whole["data"]} == whole
        assert "nodes" in json.loads(whole["data"])
    assert (await server.get("/global_subgraphs/none"))[0] == 404


async def test_node_replacements(server: Any) -> None:
    server.app.nodes.add_replacement(NodeReplace(new_node_id="Number", old_node_id="OldNumber"))
    _, found = await server.get("/node_replacements")
    assert found["OldNumber"][0]["new_node_id"] == "Number"
    _, features = await server.get("/features")
    assert features["node_replacements"] is True


async def test_assets_are_off(server: Any) -> None:
    assert (await server.get("/features"))[1]["assets"] is False
    id = "8a7f3a0e-7c1c-4f5e-9f0a-1f2e3d4c5b6a"
    for method, path in (("GET", "/assets"), ("POST", f"/api/assets/{id}/tags"), ("GET", "/tags"),
                         ("GET", f"/assets/{id}/content"), ("POST", "/assets/seed")):  # fmt: skip
        status, answer = await server.request(method, path)
        assert (status, answer["error"]["code"]) == (404, "SERVICE_DISABLED")
    async with server.client.head("/api/assets/hash/blake3:x") as response:
        assert response.status == 404


# --- the log ----------------------------------------------------------------------------------------------------


async def test_the_log_is_shown_and_followed(server: Any) -> None:
    logging.getLogger("test").warning("before %d", 1)
    status, text = await server.get("/internal/logs")
    assert status == 200
    assert "[WARNING] before 1\n" in text.decode()
    _, raw = await server.get("/internal/logs/raw")
    assert raw["entries"][-1]["m"] == "[WARNING] before 1\n"
    assert abs(raw["entries"][-1]["t"] / 1000 - time.time()) < 60
    assert raw["size"]["cols"] > 0
    async with server.socket("me") as ws, server.socket("other") as other:
        subscribe = {"clientId": "me", "enabled": True}
        assert (await server.request("PATCH", "/internal/logs/subscribe", json=subscribe))[0] == 200
        logging.getLogger("test").warning("after")
        logging.getLogger("test").warning("last")
        messages = await ws.until("logs")
        assert datetime.fromisoformat(messages[-1]["data"]["entries"][0]["t"])
        assert [entry["m"] for entry in messages[-1]["data"]["entries"]] == [
            "[WARNING] after\n",
            "[WARNING] last\n",
        ]
        await server.request("PATCH", "/internal/logs/subscribe", json={**subscribe, "enabled": False})
        logging.getLogger("test").warning("unheard")
        server.app.events.emit(Message(message_type="last"))  # comes after all that was emitted before
        for socket in (ws, other):
            assert await socket.next() == {"type": "last", "data": None}
    unknown = {"clientId": "nobody", "enabled": True}
    assert (await server.request("PATCH", "/internal/logs/subscribe", json=unknown))[0] == 200


async def test_what_is_printed_is_in_the_log(server: Any) -> None:
    SERVER_LOG.watch_prints()  # again: pytest has put its own streams there since the server began
    print("from a pack")
    SERVER_LOG.unwatch_prints()
    _, raw = await server.get("/api/internal/logs/raw")
    assert [entry["m"] for entry in raw["entries"]][-2:] == ["from a pack", "\n"]


async def test_folders_and_files(server: Any) -> None:
    _, folders = await server.get("/internal/folder_paths")
    assert folders["checkpoints"] == [[str(server.app.folders.models / "checkpoints")]]
    write(server.app.folders.output / "a.png", "1")
    write(server.app.folders.output / ".hidden", "1")
    write(server.app.folders.output / "sub" / "b.png", "1")
    assert await server.get("/internal/files/output") == (200, ["a.png [output]"])
    assert await server.get("/internal/files/user") == (200, [])
