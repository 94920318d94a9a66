"""What a browser gets: the UI's files, and how long it may keep them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

IMMUTABLE = "public, max-age=31536000, immutable"
A_DAY = "public, max-age=86400"


async def get(client: ClientSession, path: str, **options: Any) -> tuple[int, Any, str]:
    async with client.get(path, **options) as response:
        return response.status, response.headers, (await response.read()).decode("utf-8", "replace")


@pytest.mark.parametrize("path", ["/", "/index.html"])
async def test_the_page_is_never_kept(client: ClientSession, path: str) -> None:
    status, headers, page = await get(client, path)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Cache-Control"] == "no-store"
    assert "<title>ComfyUI</title>" in page


async def test_all_that_the_page_names_is_there(client: ClientSession) -> None:
    page = (await get(client, "/"))[2]
    names = [
        name for name in re.findall(r'(?:src|href)="(?!https?:)([^"]+)"', page) if "user.css" not in name
    ]
    assert len(names) > 3
    for name in names:
        status, headers, _ = await get(client, f"/{name.removeprefix('./')}")
        assert status == 200, name
        assert headers["X-Content-Type-Options"] == "nosniff"
        if re.search(r"-[\w-]{8}\.js$", name):
            assert headers["Content-Type"].startswith("text/javascript")
            assert headers["Cache-Control"] == IMMUTABLE


@pytest.mark.parametrize(
    ("path", "type", "cache"),
    [
        ("/scripts/app.js", "text/javascript; charset=utf-8", "no-cache"),
        ("/materialdesignicons.min.css", "text/css; charset=utf-8", "no-cache"),
        ("/fonts/inter-latin-normal.woff2", "font/woff2", A_DAY),
        ("/assets/images/comfy-icon-192.png", "image/png", A_DAY),
        ("/templates/index.json", "application/json; charset=utf-8", "no-cache"),
        ("/api/templates/index.json", "application/json; charset=utf-8", "no-cache"),
        ("/templates/01_get_started_text_to_image-1.webp", "image/webp", A_DAY),
        ("/docs/KSampler/en.md", "text/markdown; charset=utf-8", "no-cache"),
    ],
)
async def test_types_and_caching(client: ClientSession, path: str, type: str, cache: str) -> None:
    status, headers, _ = await get(client, path)
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, type, cache)
    again = await get(client, path, headers={"If-None-Match": headers["ETag"]})
    assert (again[0], again[1]["Cache-Control"], again[2]) == (304, cache, "")


async def test_head_and_ranges(client: ClientSession) -> None:
    async with client.head("/scripts/app.js") as response:
        assert (response.status, await response.read()) == (200, b"")
        length = int(response.headers["Content-Length"])
    assert length > 3
    status, headers, body = await get(client, "/scripts/app.js", headers={"Range": "bytes=0-2"})
    assert (status, headers["Content-Range"], len(body)) == (206, f"bytes 0-2/{length}", 3)


async def test_every_template_of_the_index_has_its_workflow(start: Callable[..., Any]) -> None:
    client = await start(frontend__templates="all")
    index = json.loads((await get(client, "/templates/index.json"))[2])
    names = [template["name"] for group in index for template in group["templates"]]
    assert len(names) > 100
    for name in names[::20]:
        status, _, workflow = await get(client, f"/templates/{name}.json")
        assert status == 200, name
        assert json.loads(workflow)["nodes"]


async def test_the_uis_own_extensions_are_listed(client: ClientSession) -> None:
    scripts = json.loads((await get(client, "/extensions"))[2])
    core = [script for script in scripts if script.startswith("/extensions/core/")]
    assert core
    assert (await get(client, core[0]))[0] == 200


async def test_versions_are_told(client: ClientSession) -> None:
    system = json.loads((await get(client, "/system_stats"))[2])["system"]
    packages = {package["name"]: package["installed"] for package in system["comfy_package_versions"]}
    assert packages["comfyui-workflow-templates"] == system["installed_templates_version"]
    assert all(packages.values())


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/nothing.js",
        "/assets/gone-12345678.js",
        "/assets/",
        "/templates/nothing.json",
        "/docs/No/en.md",
    ],
)
async def test_what_is_not_there(client: ClientSession, path: str) -> None:
    status, headers, body = await get(client, path)
    assert (status, headers["Content-Type"].split(";")[0]) == (404, "application/json"), body
    assert "Cache-Control" not in headers


async def test_operations_go_before_files(start: Callable[..., Any], build: Path) -> None:
    client = await start(frontend__root=str(build))
    assert "exec_info" in (await get(client, "/prompt"))[2]
    assert (await get(client, "/interrupt"))[0] == 405
    assert (await get(client, "/api/scripts/app.js"))[0] == 404
    # The asset operations share their path with the UI's scripts.
    assert "asset" in (await get(client, "/assets/0b0a3d7e-7d0c-4c52-9f2a-6a6c1a6b9f10"))[2]
    for method, path in (("POST", "/"), ("POST", "/scripts/app.js"), ("DELETE", "/index.html")):
        async with client.request(method, path) as response:
            assert response.status in (404, 405)


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/..%2Fsecret.txt", "/%2e%2e/secret.txt", "/assets/..%2f..%2fsecret.txt",
        "/scripts/..%5c..%5csecret.txt", "/%252e%252e/secret.txt", "//etc/passwd", "/%2fetc%2fpasswd",
        "/templates/..%2F..%2F__init__.py", "/templates/%2Fetc%2Fpasswd", "/docs/..%2F__init__.py",
        "/docs/%2e%2e%2f__init__.py", "/C:%5cWindows%5cwin.ini", "/scripts/app.js%00.png", "/link.txt",
        "/.env", "/assets/.env", "/assets/%2e%2e/.env", f"/{'a' * 300}.js", f"/{'a/' * 2000}b.js",
    ],
)  # fmt: skip
async def test_names_do_not_lead_out(start: Callable[..., Any], build: Path, path: str) -> None:
    (build / "link.txt").symlink_to(build.parent / "secret.txt")
    client = await start(frontend__root=str(build))
    async with client.get("/") as response:
        host, port = response.url.host, response.url.port
    status, body = await get_as_written(str(host), port, path)
    assert status in (400, 404), body
    assert "secret" not in body.replace("secret.txt", "")
    assert "root:" not in body and "import" not in body


async def get_as_written(host: str, port: int | None, path: str) -> tuple[int, str]:
    """GET a path that a client would tidy up first."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = (await asyncio.wait_for(reader.read(), 10)).decode("utf-8", "replace")
    writer.close()
    return int(answer.split()[1]), answer


async def test_another_build(start: Callable[..., Any], build: Path) -> None:
    client = await start(frontend__root=str(build))
    assert "<title>mine</title>" in (await get(client, "/"))[2]
    assert (await get(client, "/assets/index-B2rHQ9Sn.js"))[1]["Cache-Control"] == IMMUTABLE
    # A name that only looks as if it had a hash in it.
    assert (await get(client, "/assets/images/icon-logo-192.png"))[1]["Cache-Control"] == A_DAY
    assert json.loads((await get(client, "/extensions"))[2]) == [
        "/extensions/comfyk/comfyk.js",
        "/extensions/core/thing.js",
    ]
    (build / "new.js").write_text("export {}")
    assert (await get(client, "/new.js"))[0] == 200
    assert (await get(client, "/templates/index.json"))[0] == 200
