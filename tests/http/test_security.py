"""Requests that other sites' pages could have made are refused."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from comfyk import hookimpl
from comfyk_http.security import Guard
from comfyk_http.settings import HttpSettings


def of(url: str) -> str:
    return url.removeprefix("http://")


async def test_programs_send_no_such_headers(server: Any) -> None:
    assert (await server.get("/prompt"))[0] == 200


@pytest.mark.parametrize("path", ["/", "/prompt", "/ws", "/api/view?filename=x", "/nothing"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8188", "127.0.0.1.evil.example", "10.0.0.1", "a@b", ""]
)
async def test_unknown_hosts_are_refused(server: Any, path: str, host: str) -> None:
    status, answer = await server.get(path, headers={"Host": host})
    assert (status, answer["error"]["type"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8188", "127.0.0.1", "127.3.2.1:1", "[::1]:8188", "x.localhost"]
)
async def test_names_of_this_machine_are_known(server: Any, host: str) -> None:
    assert (await server.get("/prompt", headers={"Host": host}))[0] == 200


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("192.168.1.5:8188", True),
        ("[fe80::1]:8188", True),
        ("comfy:8188", True),
        ("gpu-box.local", True),
        ("comfy.default.svc.cluster.local", True),
        ("comfy.example.org", True),
        ("evil.example", False),
        ("", False),
    ],
)
def test_a_server_on_a_network_knows_more_names(host: str, known: bool) -> None:
    guard = Guard(HttpSettings(listen="0.0.0.0,::", allowed_hosts=["comfy.example.org"]))
    assert guard.knows_host(host) is known


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1"},  # port 80
        {"Origin": "https://127.0.0.1"},
        {"Origin": "http://[::1]"},
        {"Origin": "file://"},
        {"Origin": "tauri://localhost"},
        {"Origin": "http://[bad"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_other_sites_are_refused(server: Any, method: str, headers: dict[str, str]) -> None:
    for path in ("/interrupt", "/queue", "/ws"):
        assert (await server.request(method, path, headers=headers))[0] == 403


async def test_pages_of_the_server_itself_are_welcome(server: Any) -> None:
    for headers in (
        {"Origin": server.url},
        {"Origin": server.url, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": ""},
        {"Origin": " "},
    ):
        assert (await server.post("/queue", {}, headers=headers))[0] == 200
        async with server.client.ws_connect("/ws", headers=headers) as ws:
            await ws.receive_json()


@pytest.mark.parametrize(
    ("host", "origin", "same"),
    [
        ("127.0.0.1:8188", "http://127.0.0.1:8188", True),
        ("127.0.0.1:8188", "https://127.0.0.1:8188", True),  # a proxy that speaks TLS
        ("127.0.0.1:8188", "http://127.0.0.1", False),
        ("127.0.0.1:8188", "http://127.0.0.1:80", False),
        ("127.0.0.1:8188", "http://localhost:8188", False),
        ("127.0.0.1", "http://127.0.0.1", True),
        ("127.0.0.1", "http://127.0.0.1:80", True),
        ("127.0.0.1:80", "http://127.0.0.1", True),
        ("127.0.0.1", "http://127.0.0.1:8188", False),
        ("LOCALHOST:8188", "http://localhost:8188", True),
        ("[::1]:8188", "http://[::1]:8188", True),
        ("[0:0:0:0:0:0:0:1]:8188", "http://[::1]:8188", True),
        ("[::1]", "http://[::1]", True),
        ("[::1]:8188", "http://[::1]", False),
        ("[::1]:8188", "http://127.0.0.1:8188", False),
        ("comfy.example.org", "https://comfy.example.org", True),
        ("127.0.0.1:8188", "https://comfy.example.org", True),
        ("127.0.0.1:8188", "https://comfy.example.org:8188", True),
        ("127.0.0.1:8188", "https://comfy.example.org:8443", False),
        ("127.0.0.1:8188", "https://other.example.org:8443", True),
        ("127.0.0.1:8188", "https://other.example.org:8444", False),
        ("127.0.0.1:8188", "null", False),
        ("127.0.0.1:8188", "file://127.0.0.1:8188", False),
        ("127.0.0.1:8188", "http://", False),
        ("127.0.0.1:8188", "http://127.0.0.1:x", False),
        ("127.0.0.1:8188", "", True),
    ],
)
async def test_only_the_same_host_and_port_is_the_same_site(
    start: Any, host: str, origin: str, same: bool
) -> None:
    server = await start(allowed_hosts=["comfy.example.org", "other.example.org:8443"])
    headers = {"Host": host, "Origin": origin}
    assert (await server.post("/queue", {}, headers=headers))[0] == (200 if same else 403)


@pytest.mark.parametrize(
    "origin", ["file://", "tauri://localhost", "http://127.0.0.1", "https://App.example/"]
)
async def test_an_app_is_let_in_by_the_origin_that_it_sends(start: Any, origin: str) -> None:
    server = await start(cors_origin=origin)
    sent = "https://app.example" if "App" in origin else origin
    async with server.client.post("/queue", json={}, headers={"Origin": sent}) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"].lower() == sent
    assert (await server.post("/queue", {}, headers={"Origin": "http://evil.example"}))[0] == 403


async def test_a_link_to_the_start_page_works(server: Any) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await server.get("/", headers=headers))[0] == 200
    assert (await server.get("/", headers={**headers, "Sec-Fetch-Dest": "iframe"}))[0] == 403
    assert (await server.get("/queue", headers=headers))[0] == 403


class Changes:
    """A plugin with a GET that changes something, as ComfyUI-Manager has."""

    def __init__(self) -> None:
        self.changed = 0

    @hookimpl
    def comfyk_register_routes(self) -> list[Any]:
        async def change(request: web.Request) -> web.Response:
            self.changed += 1
            return web.Response()

        return [web.get("/v2/manager/reboot", change)]


async def test_no_other_page_reaches_a_get_that_changes_something(start: Any) -> None:
    server = await start(plugins=[plugin := Changes()])
    for path in ("/v2/manager/reboot", "/api/v2/manager/reboot"):
        for site in ("cross-site", "same-site"):
            for mode, dest in (
                ("no-cors", "image"),
                ("navigate", "document"),
                ("navigate", "iframe"),
                ("cors", "empty"),
            ):
                headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
                assert (await server.get(path, headers=headers))[0] == 403
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            assert (await server.get(path, headers=headers))[0] == 403
    assert plugin.changed == 0
    assert (await server.get("/v2/manager/reboot", headers={"Sec-Fetch-Site": "same-origin"}))[0] == 200


async def test_another_port_of_this_machine_may_show_pictures_and_no_more(server: Any) -> None:
    headers = {"Sec-Fetch-Site": "same-site"}
    await server.upload(server.picture(), "a.png")
    assert (await server.post("/queue", {}, headers=headers))[0] == 403
    assert (await server.get("/queue", headers=headers))[0] == 403
    assert (await server.get("/", headers=headers))[0] == 200
    assert (await server.get("/api/view?filename=a.png&type=input", headers=headers))[0] == 200
    assert (await server.get("/view?filename=a.png&type=input", headers={"Sec-Fetch-Site": "cross-site"}))[
        0
    ] == 403


async def test_without_the_cors_option_no_site_may_read(server: Any) -> None:
    async with server.client.get("/prompt", headers={"Origin": server.url}) as response:
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_cors_for_one_site(start: Any) -> None:
    server = await start(cors_origin="https://app.example")
    async with server.client.get("/prompt", headers={"Origin": "https://app.example"}) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert response.headers["Access-Control-Allow-Credentials"] == "true"
    for method, path, status in (
        ("GET", "/view?filename=none", 404),
        ("POST", "/prompt", 400),
        ("PUT", "/prompt", 405),
    ):
        async with server.client.request(method, path, headers={"Origin": "https://app.example"}) as response:
            assert response.status == status
            assert response.headers["Access-Control-Allow-Origin"] == "https://app.example", "it may read why"
    preflight = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    async with server.client.options("/prompt", headers=preflight) as response:
        assert response.status == 204
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
    assert (await server.get("/prompt", headers={"Origin": "https://evil.example"}))[0] == 403
    image = {"Sec-Fetch-Site": "cross-site", "Referer": "https://app.example/page"}
    assert (await server.get("/prompt", headers=image))[0] == 200
    assert (await server.get("/prompt", headers={**image, "Referer": "https://evil.example/"}))[0] == 403


async def test_cors_for_all(start: Any) -> None:
    server = await start(cors_origin="*")
    headers = {"Origin": "https://any.example", "Host": "any.example", "Sec-Fetch-Site": "cross-site"}
    async with server.client.get("/prompt", headers=headers) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in response.headers
    status, _ = await server.get("/nothing", headers=headers)
    assert status == 404


async def test_a_proxy_may_be_named(start: Any) -> None:
    server = await start(allowed_hosts=["comfy.example.org"])
    for headers in (
        {"Host": "comfy.example.org", "Origin": "https://comfy.example.org"},
        {"Host": "127.0.0.1:8188", "Origin": "https://comfy.example.org"},
    ):
        assert (await server.post("/queue", {}, headers=headers))[0] == 200
    assert (await server.get("/prompt", headers={"Host": "other.example.org"}))[0] == 403


async def test_the_refusal_says_what_to_do(server: Any) -> None:
    _, answer = await server.get("/prompt", headers={"Host": "comfy.example.org"})
    assert "allowed_hosts" in answer["error"]["details"]
    _, answer = await server.get("/prompt", headers={"Origin": "https://x.example"})
    assert "--enable-cors-header" in answer["error"]["details"]
