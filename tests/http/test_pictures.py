"""Pictures as clients want them shown: previews, channels, and what is no picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


async def test_previews(server: Any, tmp_path: Path) -> None:
    (tmp_path / "output/x.png").write_bytes(server.picture("PNG", "RGBA", (200, 100, 50, 128), (40, 20)))
    for preview, channel, format, mode in [
        ("webp;90", None, "WEBP", "RGBA"),
        ("jpeg;70", None, "JPEG", "RGB"),
        ("jpeg", "rgb", "JPEG", "RGB"),
        ("jpeg", "rgba", "WEBP", "RGBA"),
        ("webp", "rgb", "WEBP", "RGB"),
        ("gif;" + "9" * 5000, None, "WEBP", "RGBA"),
        ("webp;²", None, "WEBP", "RGBA"),
        ("webp;0", None, "WEBP", "RGBA"),
        ("", None, "WEBP", "RGBA"),
    ]:
        params = {"filename": "x.png", "preview": preview} | ({"channel": channel} if channel else {})
        async with server.client.get("/view", params=params) as response:
            assert response.status == 200
            assert response.content_type == f"image/{format.lower()}"
            image = opened(await response.read())
            assert (image.format, image.mode, image.size) == (format, mode, (40, 20))
            tag = response.headers["ETag"]
        async with server.client.get("/view", params=params, headers={"If-None-Match": tag}) as response:
            assert response.status == 304


async def test_channels(server: Any, tmp_path: Path) -> None:
    (tmp_path / "output/x.png").write_bytes(server.picture("PNG", "RGBA", (200, 100, 50, 128)))
    (tmp_path / "output/opaque.png").write_bytes(server.picture())
    rgb = opened((await server.get("/view?filename=x.png&channel=rgb"))[1])
    assert (rgb.mode, rgb.getpixel((0, 0))) == ("RGB", (200, 100, 50))
    alpha = opened((await server.get("/view?filename=x.png&channel=a"))[1])
    assert (alpha.mode, alpha.getpixel((0, 0))) == ("RGBA", (0, 0, 0, 128))
    opaque = opened((await server.get("/view?filename=opaque.png&channel=a"))[1])
    assert opaque.getpixel((0, 0)) == (0, 0, 0, 255)
    whole = (await server.get("/view?filename=x.png&channel=rgba"))[1]
    assert whole == (tmp_path / "output/x.png").read_bytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK"])
async def test_pictures_of_every_mode_can_be_shown(server: Any, tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "output/x.tiff")
    for query in ("preview=webp", "preview=jpeg", "channel=rgb", "channel=a", "preview=webp&channel=a"):
        status, data = await server.get(f"/view?filename=x.tiff&{query}")
        assert status == 200
        assert opened(data).size == (4, 4)


async def test_sixteen_bits_keep_their_brightness(server: Any, tmp_path: Path) -> None:
    Image.new("I;16", (4, 4), 32896).save(tmp_path / "output/x.png")
    _, data = await server.get("/view?filename=x.png&channel=rgb")
    assert opened(data).getpixel((0, 0)) == (128, 128, 128)


async def test_what_is_no_picture_has_no_preview(server: Any, tmp_path: Path) -> None:
    whole = server.picture("PNG", size=(300, 300))
    for name, data in {
        "text.png": b"text",
        "empty.png": b"",
        "half.png": whole[: len(whole) // 2],
        "cut.jpg": server.picture("JPEG", size=(300, 300))[:400],
        "bomb.png": _bomb(),
    }.items():
        (tmp_path / "output" / name).write_bytes(data)
        for query in ("channel=rgb", "channel=a", "preview=webp&channel=a"):
            status, answer = await server.get(f"/view?filename={name}&{query}")
            assert status == 404, (name, query)
            assert answer["error"]["type"] == "not_a_picture"
        for query in ("", "&preview=webp"):
            assert await server.get(f"/view?filename={name}{query}") == (200, data)


async def test_a_page_is_not_shown_as_its_own_preview(server: Any, tmp_path: Path) -> None:
    (tmp_path / "output" / "page.svg").write_bytes(b"<svg onload='alert(1)'/>")
    async with server.client.get("/view?filename=page.svg&preview=webp") as response:
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert response.headers["Content-Disposition"].startswith("attachment")


def _bomb() -> bytes:
    """A PNG that claims to be 100,000 pixels wide and high."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
