"""Model files: listing them, their pictures, and what is written in them."""

from __future__ import annotations

import base64
import json
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


def safetensors(path: Path, metadata: Any = None, header: bytes | None = None) -> None:
    """A file without any weights."""
    if header is None:
        header = json.dumps({} if metadata is None else {"__metadata__": metadata}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def size_of(picture: bytes) -> tuple[str | None, tuple[int, int]]:
    with Image.open(BytesIO(picture)) as image:
        return image.format, image.size


async def test_kinds(server: Any) -> None:
    _, kinds = await server.get("/experiment/models")
    names = [kind["name"] for kind in kinds]
    assert "checkpoints" in names
    assert not {"configs", "custom_nodes"} & set(names)
    checkpoints = kinds[names.index("checkpoints")]
    assert checkpoints["folders"] == [str(server.app.folders.models / "checkpoints")]
    assert ".safetensors" in checkpoints["extensions"]


async def test_the_listing_notices_changes(server: Any, tmp_path: Path) -> None:
    second = tmp_path / "second"
    server.app.folders.add("loras", second)
    assert await server.get("/experiment/models/loras") == (200, [])
    first = server.app.folders.models / "loras"
    safetensors(first / "sub" / "a.safetensors")
    safetensors(second / "b.safetensors")
    (first / "notes.txt").write_text("no model")
    (first / ".hidden.safetensors").write_text("")

    async def listed() -> list[tuple[str, int, int]]:
        _, files = await server.get("/api/experiment/models/loras")
        return [(file["name"], file["pathIndex"], file["size"]) for file in files]

    assert await listed() == [("sub/a.safetensors", 0, 10), ("b.safetensors", 1, 10)]
    with (first / "sub" / "a.safetensors").open("ab") as file:
        file.write(b"more")
    safetensors(first / "sub" / "c.safetensors")
    (second / "b.safetensors").unlink()
    assert await listed() == [("sub/a.safetensors", 0, 14), ("sub/c.safetensors", 0, 10)]
    os.rename(first / "sub", first / "renamed")
    assert [name for name, _, _ in await listed()] == ["renamed/a.safetensors", "renamed/c.safetensors"]
    _, files = await server.get("/experiment/models/loras")
    assert files[0]["modified"] <= files[0]["created"] + 10
    assert (await server.get("/experiment/models/nothing"))[0] == 404


async def test_previews(server: Any) -> None:
    folder = server.app.folders.models / "loras"
    cover = base64.b64encode(server.picture("JPEG", size=(9, 7))).decode()
    safetensors(folder / "embedded.safetensors", {"ssmd_cover_images": json.dumps([cover])})
    safetensors(folder / "sub" / "beside.safetensors")
    (folder / "sub" / "beside.png").write_bytes(server.picture(size=(5, 4)))
    safetensors(folder / "named.safetensors")
    (folder / "named.preview.jpg").write_bytes(server.picture("JPEG", size=(6, 3)))
    safetensors(folder / "none.safetensors")
    safetensors(folder / "broken.safetensors", {"ssmd_cover_images": "["})
    path = "/experiment/models/preview/loras/0"
    for name, size in (
        ("embedded.safetensors", (9, 7)),
        ("sub/beside.safetensors", (5, 4)),
        ("sub%2Fbeside.safetensors", (5, 4)),
        ("named.safetensors", (6, 3)),
    ):
        async with server.client.get(f"{path}/{name}") as response:
            assert response.content_type == "image/webp", name
            assert size_of(await response.read()) == ("WEBP", size)
            tag = response.headers["ETag"]
        async with server.client.get(f"{path}/{name}", headers={"If-None-Match": tag}) as response:
            assert response.status == 304
    for name in ("none.safetensors", "broken.safetensors", "missing.safetensors", "", "..%2F..%2Fx"):
        assert (await server.get(f"{path}/{name}"))[0] == 404
    for wrong in ("loras/1/x", "loras/-1/x", "loras/x/x", "loras/99999999999999999999/x", "nothing/0/x"):
        assert (await server.get(f"/experiment/models/preview/{wrong}"))[0] == 404


async def test_metadata(server: Any) -> None:
    folder = server.app.folders.models / "loras"
    safetensors(folder / "a.safetensors", {"ss_tag": "x", "n": "1"})
    safetensors(folder / "without.safetensors")
    assert await server.get("/view_metadata/loras?filename=a.safetensors") == (200, {"ss_tag": "x", "n": "1"})
    for wrong in ("without.safetensors", "missing.safetensors", "a.png", "", "../loras/a.safetensors"):
        assert (await server.get("/view_metadata/loras", params={"filename": wrong}))[0] == 404
    assert (await server.get("/view_metadata/loras"))[0] == 404
    assert (await server.get("/view_metadata/nothing?filename=a.safetensors"))[0] == 404


@pytest.mark.parametrize(
    "data",
    [b"", b"abc", b"\xff" * 8, (1 << 40).to_bytes(8, "little"), (100).to_bytes(8, "little") + b"{}",
     (2).to_bytes(8, "little") + b"[]", (3).to_bytes(8, "little") + b"\xff\xff\xff",
     (200_000).to_bytes(8, "little") + b"[" * 200_000],
)  # fmt: skip
async def test_broken_headers(server: Any, data: bytes) -> None:
    folder = server.app.folders.models / "loras"
    folder.mkdir(parents=True)
    (folder / "x.safetensors").write_bytes(data)
    assert (await server.get("/view_metadata/loras?filename=x.safetensors"))[0] == 404
    assert (await server.get("/experiment/models/preview/loras/0/x.safetensors"))[0] == 404


async def test_only_the_header_is_read(server: Any) -> None:
    """A file of 64 GB, nearly all of it a hole."""
    path = server.app.folders.models / "checkpoints" / "large.safetensors"
    safetensors(path, {"a": "b"})
    os.truncate(path, 64 << 30)
    assert await server.get("/view_metadata/checkpoints?filename=large.safetensors") == (200, {"a": "b"})
