"""Tokens, TLS, and who gets in."""

from __future__ import annotations

import asyncio
import re
import ssl
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from comfyk_http.settings import HttpSettings, token_needed
from comfyk_http.tokens import FILE, TokenError, Tokens
from comfyk_http.users import Users

TLS = Path(__file__).with_name("tls")


def test_tokens_are_made_and_taken_back(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path)
    assert tokens.all() == []
    one, two = tokens.create("one"), tokens.create("two")
    assert tokens.accepts(one) and Tokens(tmp_path).accepts(two)
    for wrong in ("", "x", one[:-1], one.upper(), f"{one} ", "\ud800"):
        assert not tokens.accepts(wrong)
    with pytest.raises(TokenError, match="revoke it first"):
        tokens.create("one")
    Tokens(tmp_path).revoke("one")
    assert not tokens.accepts(one) and tokens.accepts(two)
    with pytest.raises(TokenError, match="'two'"):
        tokens.revoke("one")
    kept = tmp_path / FILE
    assert two not in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', "\xff"])
def test_a_broken_file_lets_nobody_in(tmp_path: Path, text: str, caplog: Any) -> None:
    tokens = Tokens(tmp_path)
    secret = tokens.create("one")
    (tmp_path / FILE).write_text(text, encoding="latin-1")
    assert not tokens.accepts(secret)
    assert "tokens.json" in caplog.text


@pytest.mark.parametrize(
    ("listen", "when", "needed"),
    [
        ("127.0.0.1", "auto", False),
        ("127.0.0.1,::1,localhost", "auto", False),
        ("0.0.0.0,::", "auto", True),
        ("127.0.0.1,192.168.1.2", "auto", True),
        ("0.0.0.0", "never", False),
        ("127.0.0.1", "always", True),
    ],
)
def test_when_a_token_is_needed(listen: str, when: Any, needed: bool) -> None:
    assert token_needed(HttpSettings(listen=listen, require_token=when)) is needed


async def test_programs_send_a_header(start: Any) -> None:
    server = await start(require_token="always")
    tokens = Tokens(server.app.folders.user)
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {'x' * 43}"}):
        for path in ("/prompt", "/api/queue", "/nothing", "/ws", "/openapi.json", "/"):
            status, answer = await server.get(path, headers=headers)
            assert (status, answer["error"]["type"]) == (401, "unauthorized")
    secret = tokens.create("one")
    headers = {"Authorization": f"bearer {secret}"}
    assert (await server.get("/prompt", headers=headers))[0] == 200
    async with server.client.get("/prompt") as response:
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
    tokens.revoke("one")
    assert (await server.get("/prompt", headers=headers))[0] == 401


async def test_a_browser_logs_in_with_an_address(start: Any) -> None:
    server = await start(require_token="always")
    secret = Tokens(server.app.folders.user).create("one")
    async with server.client.get("/", headers={"Accept": "text/html"}) as response:
        assert response.status == 401
        assert "token create" in await response.text()
    assert (await server.get("/?token=wrong"))[0] == 401
    assert (await server.get(f"/prompt?token={secret}"))[0] == 401
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(server.url, cookie_jar=jar) as browser:
        async with browser.get(f"/?token={secret}", allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (303, "/")
            cookie = response.headers["Set-Cookie"].lower()
            assert "httponly" in cookie and "samesite=strict" in cookie
        async with browser.get("/prompt") as response:
            assert response.status == 200
        async with browser.ws_connect("/ws") as ws:
            assert (await ws.receive_json())["type"] == "status"
        async with browser.post("/queue", json={}, headers={"Origin": "https://evil.example"}) as response:
            assert response.status == 403


async def test_a_browser_gets_a_page_that_takes_the_token_and_remembers_it(start: Any) -> None:
    server = await start(require_token="always")
    secret = Tokens(server.app.folders.user).create("one")
    navigates = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Mode": "navigate"}
    text = ""
    for path in ("/", "/docs", "/api/", "/nothing"):
        async with server.client.get(path, headers=navigates) as response:
            assert (response.status, response.content_type) == (401, "text/html")
            text = await response.text()
    action = re.search(r'<form method="post" action="([^"]+)"', text)
    assert action is not None and "no such token" not in text
    for headers in ({"Accept": "*/*"}, {"Accept": "text/html", "Sec-Fetch-Mode": "cors"}):
        assert (await server.get("/", headers=headers))[1]["error"]["type"] == "unauthorized"

    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(server.url, cookie_jar=jar) as browser:
        for wrong in ("", "comfyk_wrong", "\u2603", "x" * 5000):
            async with browser.post(action[1], data={"token": wrong}) as response:
                assert response.status == 401 and "no such token" in await response.text()
        async with browser.post(action[1], json={"token": secret}) as response:
            assert response.status == 401 and not response.cookies
        evil = {"Origin": "https://evil.example"}
        async with browser.post(action[1], data={"token": secret}, headers=evil) as response:
            assert response.status == 403 and not response.cookies
        sent = {"token": f" {secret} "}
        async with browser.post(action[1], data=sent, allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (303, "/")
            cookie = response.headers["Set-Cookie"].lower()
            assert "httponly" in cookie and "samesite=strict" in cookie and "max-age" in cookie
        async with browser.get("/", headers=navigates) as response:
            assert response.status == 200
        Tokens(server.app.folders.user).revoke("one")
        async with browser.get("/", headers=navigates) as response:
            assert response.status == 401


async def test_a_websocket_may_have_it_in_its_address(start: Any) -> None:
    server = await start(require_token="always")
    secret = Tokens(server.app.folders.user).create("one")
    async with server.client.ws_connect(f"/ws?clientId=x&token={secret}") as ws:
        assert (await ws.receive_json())["data"]["sid"] == "x"
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await server.client.ws_connect("/ws?token=wrong")


async def test_a_revoked_token_closes_the_websockets_that_it_opened(start: Any, monkeypatch: Any) -> None:
    server = await start(require_token="always", websocket_timeout=2)
    tokens = Tokens(server.app.folders.user)
    one, two = tokens.create("one"), tokens.create("two")
    async with (
        server.client.ws_connect(f"/ws?token={one}") as gone,
        server.client.ws_connect("/ws", headers={"Cookie": f"comfyk_token={one}"}) as gone_too,
        server.client.ws_connect("/ws", headers={"Authorization": f"Bearer {two}"}) as stays,
    ):
        for ws in (gone, gone_too, stays):
            await ws.receive_json()
        tokens.revoke("one")
        for ws in (gone, gone_too):
            assert (await ws.receive(10)).type is aiohttp.WSMsgType.CLOSE
            assert ws.close_code == 1008
        await stays.send_json({"type": "feature_flags", "data": {}})
        assert (await stays.receive_json(timeout=10))["type"] == "feature_flags"


async def test_a_token_may_belong_to_a_user(start: Any) -> None:
    server = await start(require_token="always", multi_user=True)
    tokens = Tokens(server.app.folders.user)
    admin = {"Authorization": f"Bearer {tokens.create('admin')}"}
    ann, ben = [
        (await server.post("/users", {"username": name}, headers=admin))[1] for name in ("ann", "ben")
    ]
    hers = {"Authorization": f"Bearer {tokens.create('hers', ann)}"}
    _, answer = await server.post("/prompt", {"prompt": server.show()}, headers=hers)
    assert (await server.until_ended(answer["prompt_id"], headers=hers))["status"]["status_str"] == "success"
    assert list((await server.get("/history", headers={**admin, "Comfy-User": ann}))[1]) == [
        answer["prompt_id"]
    ]
    assert (await server.get("/history", headers={**hers, "Comfy-User": ann}))[0] == 200
    for path in ("/history", "/settings", "/object_info"):
        status, refused = await server.get(path, headers={**hers, "Comfy-User": ben})
        assert (status, refused["error"]["type"]) == (403, "not_your_user")
    assert (await server.get("/history", headers={**hers, "Comfy-User": "nobody"}))[0] == 403
    # So a browser's WebSocket is somebody's too.
    async with server.client.ws_connect("/ws?clientId=x", headers=hers) as ws:
        await ws.receive_json()
        with pytest.raises(aiohttp.WSServerHandshakeError) as taken:
            await server.client.ws_connect("/ws?clientId=x", headers=admin)
        assert taken.value.status == 409


async def test_beyond_loopback_it_is_asked_for(start: Any, caplog: Any) -> None:
    server = await start(listen="0.0.0.0")
    assert (await server.get("/prompt"))[0] == 401
    assert "comfyk token create" in caplog.text


async def test_preflights_need_no_token(start: Any) -> None:
    server = await start(require_token="always", cors_origin="https://app.example")
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    async with server.client.options("/prompt", headers=headers) as response:
        assert response.status == 204
        assert "Authorization" in response.headers["Access-Control-Allow-Headers"]


def test_the_commands(tmp_path: Path) -> None:
    def comfyk(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "comfyk", "--base-directory", str(tmp_path), "token", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    secret = comfyk("create", "laptop").stdout.strip()
    assert Tokens(tmp_path / "user").accepts(secret)
    listed = comfyk("list").stdout
    assert listed.startswith("laptop\t") and secret not in listed
    assert comfyk("create", "laptop").returncode == 1
    assert comfyk("revoke", "laptop").returncode == 0
    failed = comfyk("revoke", "laptop")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert not Tokens(tmp_path / "user").accepts(secret)
    id = Users(tmp_path / "user", multi_user=True).add("ann")
    comfyk("create", "hers", "--user", "ann")
    assert [token.user for token in Tokens(tmp_path / "user").all()] == [id]
    assert id in comfyk("list").stdout
    assert "'ann'" in comfyk("create", "his", "--user", "ben").stderr


async def test_tls(start: Any) -> None:
    server = await start(
        tls_keyfile=str(TLS / "key.pem"), tls_certfile=str(TLS / "certificate.pem"), require_token="always"
    )
    assert server.url.startswith("https://127.0.0.1:")
    secret = Tokens(server.app.folders.user).create("one")
    trusting = ssl.create_default_context(cafile=TLS / "certificate.pem")
    async with aiohttp.ClientSession(server.url, headers={"Authorization": f"Bearer {secret}"}) as client:
        async with client.get("/prompt", ssl=trusting, headers={"Origin": server.url}) as response:
            assert response.status == 200
        async with client.ws_connect("/ws", ssl=trusting) as ws:
            assert (await ws.receive_json())["type"] == "status"
        async with client.get(f"/?token={secret}", ssl=trusting, allow_redirects=False) as response:
            assert "secure" in response.headers["Set-Cookie"].lower()
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await client.get("/prompt")


@pytest.mark.parametrize(
    "files", [("key.pem", None), (None, "certificate.pem"), ("certificate.pem", "key.pem")]
)
async def test_tls_that_cannot_be(start: Any, files: tuple[str | None, str | None]) -> None:
    options = {
        name: str(TLS / file)
        for name, file in zip(("tls_keyfile", "tls_certfile"), files, strict=True)
        if file is not None
    }
    with pytest.raises(OSError, match="TLS"):
        await start(**options)
    await asyncio.sleep(0)
