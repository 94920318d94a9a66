"""Users, their settings and their files."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from comfyk_http import user_settings
from comfyk_http.users import UnknownUserError, UserError, Users
from yarl import URL


def file(server: Any, name: str, query: str = "") -> URL:
    """The address of a user's file."""
    return URL(f"{server.url}/userdata/{quote(name, safe='')}{query}", encoded=True)


# --- users ------------------------------------------------------------------------------------------------------


async def test_there_is_one_user_by_default(server: Any) -> None:
    assert await server.get("/users") == (200, {"storage": "server", "migrated": False})
    await server.post("/settings", {"a": 1})
    assert await server.get("/api/users") == (200, {"storage": "server", "migrated": True})
    assert (await server.post("/users", {"username": "ann"}))[0] == 400
    headers = {"Comfy-User": "nobody"}
    assert await server.get("/settings", headers=headers) == (200, {"a": 1})


async def test_users_keep_apart(start: Any) -> None:
    server = await start(multi_user=True)
    assert await server.get("/users") == (200, {"storage": "server", "users": {}})
    _, ann = await server.post("/users", {"username": "Ann Ä/.."})
    _, ben = await server.post("/users", {"username": "ben"})
    assert (await server.get("/users"))[1]["users"] == {ann: "Ann Ä/..", ben: "ben"}
    assert (await server.post("/users", {"username": "ben"}))[1]["error"].endswith("Duplicate username.")
    await server.post("/settings", {"color": "red"}, headers={"Comfy-User": ann})
    await server.request("POST", "/userdata/x.json", data=b"1", headers={"Comfy-User": ann})
    assert (await server.get("/settings", headers={"Comfy-User": ben})) == (200, {})
    assert (await server.get("/userdata/x.json", headers={"Comfy-User": ben}))[0] == 404
    assert (server.app.folders.user / ann / "x.json").read_bytes() == b"1"


@pytest.mark.parametrize("user", ["", "default", "nobody", "__system", "..", "../x", "/etc", "a%00", "."])
async def test_nobody_else_gets_in(start: Any, user: str) -> None:
    server = await start(multi_user=True)
    (server.app.folders.user / "__system").mkdir()
    (server.app.folders.user / "users.json").write_text(json.dumps({"__system": "x", "..": "y", ".": "z"}))
    for method, path in (("GET", "/settings"), ("GET", "/v2/userdata"), ("POST", "/userdata/a.json")):
        assert (await server.request(method, path, headers={"Comfy-User": user}))[0] == 401


async def test_an_unknown_user_gets_nothing_anywhere(start: Any) -> None:
    server = await start(multi_user=True)
    _, ann = await server.post("/users", {"username": "ann"})
    for user in ("nobody", "default", "__system", f"{ann}x"):
        headers = {"Comfy-User": user}
        for method, path, body in (
            ("POST", "/prompt", {"prompt": server.show()}),
            ("GET", "/prompt", None),
            ("GET", "/queue", None),
            ("POST", "/queue", {"clear": True}),
            ("POST", "/interrupt", {}),
            ("GET", "/history", None),
            ("GET", "/jobs", None),
            ("GET", "/tasks", None),
            ("GET", "/settings", None),
            ("GET", "/v2/userdata", None),
            ("GET", "/api/object_info", None),
            ("GET", "/users", None),
            ("GET", "/nothing", None),
            ("GET", "/ws", None),
        ):
            options = {} if body is None else {"json": body}
            status, answer = await server.request(method, path, headers=headers, **options)
            assert (status, "Unknown user" in json.dumps(answer)) == (401, True), (user, method, path)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await server.client.ws_connect("/ws", headers=headers)
        assert refused.value.status == 401
    # Nobody in particular: what belongs to a user needs to know whose it is, the rest does not.
    assert (await server.post("/prompt", {"prompt": server.show()}))[0] == 401
    assert (await server.get("/object_info"))[0] == (await server.get("/users"))[0] == 200
    assert (await server.post("/prompt", {"prompt": server.show()}, headers={"Comfy-User": ann}))[0] == 200
    assert (await server.get("/users", headers={"Comfy-User": ""}))[
        0
    ] == 200  # the web UI, before one is chosen


async def test_a_client_id_in_use_is_nobody_elses(start: Any) -> None:
    server = await start(multi_user=True)
    ann, ben = [
        {"Comfy-User": (await server.post("/users", {"username": name}))[1]} for name in ("ann", "ben")
    ]
    connect = server.client.ws_connect
    async with connect("/ws?clientId=x", headers=ann) as ws:
        await ws.receive_json()
        for headers in (ben, {}):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await connect("/ws?clientId=x", headers=headers)
            assert refused.value.status == 409
        asked = {"prompt": server.show(), "client_id": "x"}
        status, answer = await server.post("/prompt", asked, headers=ben)
        assert (status, answer["error"]["type"]) == (409, "client_id_in_use")
        async with connect("/ws?clientId=x", headers=ann) as again:  # the same user, connecting again
            await again.receive_json()
            assert (await server.post("/prompt", asked, headers=ann))[0] == 200
            async with asyncio.timeout(10):
                while (await again.receive_json())["type"] != "execution_success":
                    pass
    await server.until(lambda: len(server.http.hub) == 0)
    # A browser cannot say in its WebSocket whose it is: the first prompt tells.
    async with connect("/ws?clientId=y") as ws:
        await ws.receive_json()
        asked = {"prompt": server.show(2), "client_id": "y"}
        assert (await server.post("/prompt", asked, headers=ann))[0] == 200
        assert (await server.post("/prompt", asked, headers=ben))[0] == 409
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await connect("/ws?clientId=y", headers=ben)
        async with connect("/ws?clientId=y") as again:  # its reload
            await again.receive_json()


@pytest.mark.parametrize("name", ["", "  ", "__x", " __x", "x" * 101, "a\nb"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        Users(tmp_path, multi_user=True).add(name)


def test_broken_user_files_let_nobody_in(tmp_path: Path) -> None:
    users = Users(tmp_path, multi_user=True)
    for text in ("{", "[]", '"x"'):
        (tmp_path / "users.json").write_text(text)
        assert users.names() == {}
        with pytest.raises(UnknownUserError):
            users.folder("default")


# --- settings ---------------------------------------------------------------------------------------------------


async def test_settings_are_kept(server: Any) -> None:
    assert await server.get("/settings") == (200, {})
    assert (await server.post("/settings", {"Comfy.A": {"deep": [1, None]}, "b": "ü"}))[0] == 200
    assert (await server.post("/settings", {"b": 2}))[0] == 200
    assert await server.get("/settings") == (200, {"Comfy.A": {"deep": [1, None]}, "b": 2})
    for value in (0, False, None, "x", [1], {"a": 1}):
        assert (await server.request("POST", "/settings/Comfy.One", data=json.dumps(value)))[0] == 200
        assert await server.get("/api/settings/Comfy.One") == (200, value)
    assert await server.get("/settings/never.set") == (200, None)


async def test_settings_changed_at_once_are_all_kept(server: Any) -> None:
    await asyncio.gather(*(server.post("/settings", {f"k{n}": n}) for n in range(30)))
    assert (await server.get("/settings"))[1] == {f"k{n}": n for n in range(30)}


def test_broken_settings_are_put_aside(tmp_path: Path) -> None:
    path = tmp_path / user_settings.FILE
    path.write_text("{broken")
    assert user_settings.load(tmp_path) == {}
    user_settings.update(tmp_path, {"a": 1})
    assert user_settings.load(tmp_path) == {"a": 1}
    assert path.with_name(f"{path.name}.broken").read_text() == "{broken"


# --- files ------------------------------------------------------------------------------------------------------


async def write(server: Any, name: str, data: bytes = b"{}", query: str = "") -> tuple[int, Any]:
    return await server.request("POST", file(server, name, query), data=data)


async def test_a_file_is_written_read_moved_and_deleted(server: Any) -> None:
    assert await write(server, "workflows/ä b.json", b"one") == (200, "workflows/ä b.json")
    async with server.client.get(file(server, "workflows/ä b.json")) as response:
        assert await response.read() == b"one"
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["Content-Disposition"].startswith("attachment")
    assert (await write(server, "workflows/ä b.json", b"two", "?overwrite=false"))[0] == 409
    status, info = await write(server, "workflows/ä b.json", b"three", "?overwrite=true&full_info=true")
    assert (status, info["path"], info["size"]) == (200, "workflows/ä b.json", 5)
    assert abs(info["modified"] - info["created"]) < 5000
    await write(server, "other.json", b"other")
    for query, expected in (("?overwrite=false", 409), ("?overwrite=true", 200)):
        address = URL(
            f"{file(server, 'workflows/ä b.json')}/move/{quote('other.json', safe='')}{query}", encoded=True
        )
        assert (await server.request("POST", address))[0] == expected
    assert (await server.get(file(server, "workflows/ä b.json")))[0] == 404
    address = f"{file(server, 'other.json')}/move/new%2Fplace.json?full_info=true&overwrite=false"
    _, moved = await server.request("POST", URL(address, encoded=True))
    assert moved["path"] == "new/place.json"
    assert await server.request("DELETE", file(server, "new/place.json")) == (204, b"")
    assert (await server.request("DELETE", file(server, "new/place.json")))[0] == 404
    assert (await server.request("POST", URL(address, encoded=True)))[0] == 404


async def test_a_slash_is_as_good_as_its_code(server: Any) -> None:
    """Proxies decode `%2F`."""
    for prefix in ("", "/api"):
        path = f"{prefix}/userdata/workflows/sub/a b.json"
        assert await server.request("POST", f"{path}?overwrite=false", data=b"1") == (
            200,
            "workflows/sub/a b.json",
        )
        assert (await server.request("POST", f"{path}?overwrite=false", data=b"two"))[0] == 409
        assert (await server.get(path)) == (await server.get(file(server, "workflows/sub/a b.json")))
        status, moved = await server.request("POST", f"{path}/move/workflows/move/b.json?full_info=true")
        assert (status, moved["path"]) == (200, "workflows/move/b.json")
        status, moved = await server.request(
            "POST", f"{prefix}/userdata/workflows/move/b.json/move/workflows/c.json"
        )
        assert (status, moved) == (200, "workflows/c.json")
        assert (await server.request("DELETE", f"{prefix}/userdata/workflows/c.json"))[0] == 204
        for gone in (path, f"{prefix}/userdata/workflows/c.json"):
            assert (await server.get(gone))[0] == (await server.request("DELETE", gone))[0] == 404
            assert (await server.request("POST", f"{gone}/move/x/y.json"))[0] == 404
        for outside in ("../../secret.txt", "/etc/passwd", "a/../../b"):
            assert (await server.get(URL(f"{server.url}{prefix}/userdata/{outside}", encoded=True)))[0] in (
                403,
                404,
            )


async def test_a_disk_that_is_full_is_told(server: Any, monkeypatch: Any) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", str(server.app.folders.user / "default/x"))

    monkeypatch.setattr("comfyk.atomic.os.replace", full)
    monkeypatch.setattr("comfyk.api.received.os.link", full)
    monkeypatch.setattr("comfyk.api.received.Path.replace", full)
    for method, path, body in (
        ("POST", "/settings", b'{"a": 1}'),
        ("POST", "/settings/a", b"1"),
        ("POST", "/userdata/x.json", b"{}"),
    ):
        status, answer = await server.request(method, path, data=body)
        assert (status, answer["error"]["type"]) == (507, "disk_full"), path
        assert str(server.app.folders.base) not in json.dumps(answer)
    assert (await server.upload(b"x", "x.png"))[0] == 507
    assert not list(server.app.folders.base.rglob(".comfyk-upload-*"))
    assert not [path for path in server.app.folders.user.rglob(".*") if path.is_file()]


async def test_listing(server: Any) -> None:
    for name in ("w/a.json", "w/sub/b.json", "w/.hidden.json", "top.css"):
        await write(server, name)
    assert await server.get("/userdata", params={"dir": "w"}) == (200, ["a.json"])
    recursive = {"dir": "w", "recurse": "true"}
    assert await server.get("/userdata", params=recursive) == (200, ["a.json", "sub/b.json"])
    split = await server.get("/userdata", params={**recursive, "split": "true"})
    assert split == (200, [["a.json", "a.json"], ["sub/b.json", "sub", "b.json"]])
    _, full = await server.get("/userdata", params={**recursive, "full_info": "true", "split": "true"})
    assert [(entry["path"], entry["size"]) for entry in full] == [("a.json", 2), ("sub/b.json", 2)]
    for wrong in ({}, {"dir": ""}, {"dir": "none"}, {"dir": "top.css"}, {"dir": "../"}):
        assert (await server.get("/userdata", params=wrong))[0] == 404


async def test_what_the_web_ui_lists_at_its_start_is_there(server: Any) -> None:
    for directory in ("workflows", "subgraphs"):
        assert await server.get("/userdata", params={"dir": directory, "recurse": "true"}) == (200, [])
    assert (await server.get("/userdata", params={"dir": "w/workflows"}))[0] == 404
    await write(server, "workflows")
    assert (await server.get("/userdata", params={"dir": "workflows"}))[0] == 404


async def test_the_tree(server: Any) -> None:
    assert await server.get("/v2/userdata") == (200, [])
    for name in ("w/b.json", "w/sub/a.json", "top.css"):
        await write(server, name)
    _, tree = await server.get("/v2/userdata")
    assert [(entry["type"], entry["path"]) for entry in tree] == [
        ("directory", "w/sub"),
        ("directory", "w"),
        ("file", "w/sub/a.json"),
        ("file", "w/b.json"),
        ("file", "top.css"),
    ] or {entry["path"] for entry in tree} == {"w", "w/sub", "w/sub/a.json", "w/b.json", "top.css"}
    _, part = await server.get("/api/v2/userdata", params={"path": "w/sub"})
    assert [(entry["name"], entry["path"], entry["size"]) for entry in part] == [
        ("a.json", "w/sub/a.json", 2)
    ]
    for wrong in ("none", "top.css", "..", "/", "x" * 300):
        assert await server.get("/v2/userdata", params={"path": wrong}) == (200, [])


async def test_the_style_sheet_works_and_pages_do_not(server: Any) -> None:
    for name in ("user.css", "x/user.css", "page.html", "picture.svg", "script.js"):
        await write(server, name, b"<script>")
    for name, type, kind in (
        ("user.css", "text/css", "inline"),
        ("x/user.css", "application/octet-stream", "attachment"),
        ("page.html", "application/octet-stream", "attachment"),
        ("picture.svg", "application/octet-stream", "attachment"),
        ("script.js", "application/octet-stream", "attachment"),
    ):
        async with server.client.get(file(server, name)) as response:
            assert response.headers["Content-Type"] == type
            assert response.headers["Content-Disposition"].startswith(kind)
            assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_what_cannot_be_written(start: Any) -> None:
    server = await start(max_upload_size_mb=0.1)
    await write(server, "folder/x.json")
    assert (await write(server, "folder"))[0] == 409
    for name in ("folder/x.json/y.json", "../x.json", "con", "x" * 300, "y/" * 500):
        assert (await write(server, name))[0] == 409
        assert (await server.get(file(server, name)))[0] == 404
        assert (await server.request("DELETE", file(server, name)))[0] == 404
        for source, target, expected in (("folder/x.json", name, 409), (name, "z.json", 404)):
            address = f"{file(server, source)}/move/{quote(target, safe='')}"
            assert (await server.request("POST", URL(address, encoded=True)))[0] == expected
    assert (await write(server, "big.bin", b"x" * 200_000))[0] == 413

    async def pieces() -> Any:
        for _ in range(20):
            yield b"x" * 10_000

    assert (await server.request("POST", file(server, "big.bin"), data=pieces()))[0] == 413
    assert sorted(path.name for path in server.app.folders.user.rglob("*")) == ["default", "folder", "x.json"]


async def test_an_interrupted_upload_leaves_the_old_file(server: Any) -> None:
    await write(server, "a.json", b"old")
    host, port = server.http.addresses[0]
    _, writer = await asyncio.open_connection(host, port)
    writer.write(b"POST /userdata/a.json HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nnew")
    await writer.drain()
    await server.until(lambda: list(server.app.folders.user.rglob(".comfyk-upload-*")))
    writer.close()
    await server.until(lambda: not list(server.app.folders.user.rglob(".comfyk-upload-*")))
    assert (server.app.folders.user / "default" / "a.json").read_bytes() == b"old"
