"""The server itself: routes of plugins, errors, addresses, and the routes that tell about the system."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import socket
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from comfyk import hookimpl
from comfyk.jobs.memory import MemoryJobStore
from comfyk.jobs.store import StoreError

# --- plugins ------------------------------------------------------------------------------------------------------


class Routes:
    """A plugin with routes: a good one, one that fails, one that is no route, and one that takes a path of ours."""

    @hookimpl
    def comfyk_register_routes(self, app: Any) -> list[Any]:
        async def hello(request: web.Request) -> web.Response:
            return web.json_response({"nodes": len(list(app.nodes))})

        async def fail(request: web.Request) -> web.Response:
            raise RuntimeError("secret detail")

        async def page(request: web.Request) -> web.Response:
            return web.Response(text="mine")

        return [
            web.get("/hello", hello),
            web.get("/api/both", hello),
            "no route",
            web.get("/fail", fail),
            web.get("/bad{", hello),
            web.get("/", page),
            web.get("/last", hello),
            web.static("/files", Path(__file__).parent),
        ]

    @hookimpl
    def comfyk_register_middlewares(self, app: Any) -> list[Any]:
        @web.middleware
        async def mark(request: web.Request, handler: Any) -> web.StreamResponse:
            response = await handler(request)
            response.headers["X-Mark"] = "yes"
            return response

        return [mark]

    @hookimpl
    def comfyk_feature_flags(self, app: Any) -> dict[str, Any]:
        return {"mine": True}


class Broken:
    """A plugin whose route hook raises."""

    @hookimpl
    def comfyk_register_routes(self, app: Any) -> list[Any]:
        raise RuntimeError("no routes today")


async def test_routes_come_from_plugins(start: Any) -> None:
    server = await start(plugins=[Routes(), Broken()])
    for path in ("/hello", "/api/hello", "/both", "/api/both", "/last"):
        assert (await server.get(path))[0] == 200, path
    assert await server.get("/") == (200, b"mine")
    assert (
        (await server.get("/files/conftest.py"))[0] == (await server.get("/api/files/conftest.py"))[0] == 200
    )
    assert (await server.get("/features"))[1]["mine"] is True
    async with server.client.get("/queue") as response:
        assert response.headers["X-Mark"] == "yes"
    errors = {info.name: [error.hook for error in info.errors] for info in server.app.plugins.infos()}
    assert errors == {
        "http": [],
        "plugin0": ["comfyk_register_routes"],
        "plugin1": ["comfyk_register_routes"],
    }


async def test_an_unexpected_error_shows_nothing_of_itself(start: Any, caplog: Any) -> None:
    server = await start(plugins=[Routes()])
    async with server.client.get("/fail") as response:
        assert response.status == 500
        text = await response.text()
    assert json.loads(text)["error"]["type"] == "internal_error"
    assert "secret detail" not in text
    assert "Traceback" not in text
    assert "secret detail" in caplog.text


async def test_unknown_paths_and_methods(server: Any) -> None:
    status, answer = await server.get("/nothing/here")
    assert (status, answer["error"]["type"]) == (404, "not_found")
    async with server.client.delete("/prompt") as response:
        assert response.status == 405
        assert set(response.headers["Allow"].split(",")) == {"GET", "HEAD", "POST"}
        assert (await response.json())["error"]["type"] == "method_not_allowed"


class FailingStore(MemoryJobStore):
    async def add(self, job: Any, started_at: int | None = None) -> None:
        raise StoreError("the disk is full: /data/comfyk.sqlite")


class Failing:
    @hookimpl
    def comfyk_open_job_store(self, app: Any) -> FailingStore:
        return FailingStore()


async def test_a_prompt_that_cannot_be_stored_is_not_accepted(start: Any) -> None:
    server = await start(plugins=[Failing()])
    status, answer = await server.post("/prompt", {"prompt": server.show()})
    assert status == 503
    assert answer["error"]["message"] == "the disk is full: comfyk.sqlite"  # not where it is
    assert (await server.get("/queue"))[1] == {"queue_running": [], "queue_pending": []}


# --- addresses ----------------------------------------------------------------------------------------------------


async def test_a_port_in_use_is_said_clearly(start: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} on 127.0.0.1 is in use.*--port") as caught:
            await start(port=port)
        assert caught.value.errno == errno.EADDRINUSE


async def test_it_listens_on_several_addresses(start: Any) -> None:
    server = await start(listen="127.0.0.1, 127.0.0.2")
    assert [host for host, _ in server.http.addresses] == ["127.0.0.1", "127.0.0.2"]
    for host, port in server.http.addresses:
        async with aiohttp.ClientSession() as client, client.get(f"http://{host}:{port}/prompt") as response:
            assert response.status == 200


async def test_all_addresses_mean_this_machine_in_the_url(start: Any) -> None:
    server = await start(listen="0.0.0.0")
    assert server.url.startswith("http://127.0.0.1:")


async def test_tls_needs_key_and_certificate(start: Any, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="--tls-certfile"):
        await start(tls_keyfile=str(tmp_path / "key.pem"))
    with pytest.raises(OSError, match="cannot use"):
        await start(tls_keyfile=str(tmp_path / "key.pem"), tls_certfile=str(tmp_path / "cert.pem"))


# --- object_info --------------------------------------------------------------------------------------------------


async def test_object_info_is_sent_once(server: Any) -> None:
    async with server.client.get("/object_info", headers={"Accept-Encoding": "identity"}) as response:
        plain, tag = await response.read(), response.headers["ETag"]
        assert response.content_type == "application/json"
    assert set(json.loads(plain)) == {"Number", "Show", "Fails", "Steps", "Waits"}
    for held in (tag, f'"x", {tag}', tag.removeprefix("W/"), "*"):
        assert await server.get("/object_info", headers={"If-None-Match": held}) == (304, b"")
    assert (await server.get("/object_info", headers={"If-None-Match": '"other"'}))[0] == 200
    async with aiohttp.ClientSession(server.url, auto_decompress=False) as client:
        for _ in range(2):
            async with client.get("/object_info", headers={"Accept-Encoding": "gzip"}) as response:
                assert response.headers["Content-Encoding"] == "gzip"
                assert gzip.decompress(await response.read()) == plain


async def test_one_node(server: Any) -> None:
    status, info = await server.get("/object_info/Show")
    assert (status, list(info)) == (200, ["Show"])
    assert info["Show"] == (await server.get("/object_info"))[1]["Show"]
    assert (await server.get("/object_info/Nothing"))[0] == 404


# --- system -------------------------------------------------------------------------------------------------------


class Stats:
    @hookimpl
    def comfyk_system_stats(self, app: Any) -> dict[str, Any]:
        return {"pytorch_version": "1"}

    @hookimpl
    def comfyk_device_stats(self, app: Any) -> list[dict[str, Any]]:
        return [{"name": "abacus", "type": "wood", "index": 0}]


async def test_system_stats(start: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.argv", ["comfyk", "--database-url", "postgresql://me:secret@host/db"])
    server = await start(plugins=[Stats()])
    _, stats = await server.get("/system_stats")
    system = stats["system"]
    assert {"os", "python_version", "embedded_python", "comfyui_version", "argv"} <= set(system)
    assert 0 < system["ram_free"] < system["ram_total"]
    assert system["pytorch_version"] == "1"
    assert system["argv"][2] == "postgresql://me:***@host/db"
    assert stats["devices"] == [{"name": "abacus", "type": "wood", "index": 0}]


async def test_without_a_device_plugin_there_is_the_processor(server: Any) -> None:
    _, stats = await server.get("/system_stats")
    assert stats["devices"][0]["type"] == "cpu"
    assert stats["devices"][0]["index"] == 0


async def test_models(server: Any, tmp_path: Path) -> None:
    (tmp_path / "models/embeddings/sub").mkdir(parents=True)
    (tmp_path / "models/embeddings/sub/neg.safetensors").write_bytes(b"")
    (tmp_path / "models/embeddings/easy.pt").write_bytes(b"")
    assert await server.get("/embeddings") == (200, ["easy", "sub/neg"])
    assert await server.get("/models/embeddings") == (200, ["easy.pt", "sub/neg.safetensors"])
    assert "checkpoints" in (await server.get("/models"))[1]
    for name in ("nothing", "..%2fvae", "%00"):
        assert (await server.get(f"/models/{name}"))[0] == 404


class Scripts:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @hookimpl
    def comfyk_register_web_directories(self, app: Any) -> dict[str, Path]:
        return {"my pack": self.folder}


async def test_scripts_of_packs(start: Any, tmp_path: Path) -> None:
    folder = tmp_path / "pack/js"
    (folder / "lib").mkdir(parents=True)
    (folder / "main.js").write_text("main")
    (folder / "lib/a b.js").write_text("lib")
    (folder / "style.css").write_text("style")
    (tmp_path / "pack/secret.py").write_text("secret")
    server = await start(plugins=[Scripts(folder)])
    _, paths = await server.get("/extensions")
    assert paths == ["/extensions/my%20pack/lib/a%20b.js", "/extensions/my%20pack/main.js"]
    for path in paths:
        async with server.client.get(f"/api{path}") as response:
            assert (response.status, response.content_type) == (200, "text/javascript")
            assert response.headers["Cache-Control"] == "no-cache"
    assert (await server.get("/extensions/my%20pack/style.css"))[1] == b"style"
    for path in (
        "my%20pack/..%2fsecret.py",
        "my%20pack/%2e%2e/secret.py",
        "my%20pack/x.js",
        "my%20pack/lib",
        "x/y.js",
    ):
        assert (await server.get(f"/extensions/{path}"))[0] == 404


async def test_the_start_page_says_how_to_get_the_ui(server: Any) -> None:
    _, answer = await server.get("/")
    assert "comfyk-frontend" in answer["message"]
    status, page = await server.get("/", headers={"Accept": "text/html"})
    assert status == 200
    assert b"comfyk-frontend" in page


async def test_compression_on_request(start: Any) -> None:
    server = await start(compress=True)
    async with aiohttp.ClientSession(server.url, auto_decompress=False) as client:
        async with client.get("/models", headers={"Accept-Encoding": "gzip"}) as response:
            short = "Content-Encoding" not in response.headers
        for number in range(5):
            await server.run(server.show(number))
        async with client.get("/history", headers={"Accept-Encoding": "gzip"}) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            assert len(json.loads(gzip.decompress(await response.read()))) == 5
    assert short


async def test_what_other_servers_of_this_api_tell_is_told_too(server: Any) -> None:
    _, stats = await server.get("/system_stats")
    assert stats["uptime"] > 0
    assert stats["gpus"] == []
    assert stats["ram"]["total"] == stats["system"]["ram_total"] // 1024**2
    assert stats["ram"]["used"] + stats["ram"]["available"] <= stats["ram"]["total"]
    entry = await server.run(server.show())
    assert entry["status"]["status_code"] == 100
    assert abs(entry["timestamp"] - time.time()) < 60
    assert (await server.run(server.single("Fails", value=1)))["status"]["status_code"] == 0
    _, wrong = await server.get("/view?filename=none.png")
    assert (wrong["status_code"], wrong["detail"]) == (404, "File not found")


async def test_what_is_no_http_is_no_error(server: Any, caplog: Any) -> None:
    host, port = server.http.addresses[0]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: \x00\r\n\r\n")
    assert b"400" in await reader.readline()
    writer.close()
    assert "Traceback" not in caplog.text


async def test_what_is_no_middleware_is_its_plugins_error_and_requests_are_answered(start: Any) -> None:
    class Sloppy:
        @hookimpl
        def comfyk_register_middlewares(self, app: Any) -> list[Any]:
            return [5, lambda request: None]

    server = await start(plugins=[Sloppy()])
    status, _ = await server.get("/queue")
    assert status == 200
    errors = [error for info in server.app.plugins.infos() for error in info.errors]
    assert [(error.hook, "no middleware" in error.message) for error in errors] == [
        ("comfyk_register_middlewares", True)
    ]
