"""Pictures as clients want them shown: previews, channels, and what is no picture."""

from __future__ import annotations

import asyncio
import io
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil
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


def rotated(format: str = "JPEG", size: tuple[int, int] = (40, 20)) -> bytes:
    """A picture whose EXIF data says that it has to be turned: its left half is red, which belongs on top."""
    picture = Image.new("RGB", size, "blue")
    picture.paste("red", (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    picture.save(file, format, exif=exif, **({"quality": 95} if format == "JPEG" else {}))
    return file.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
async def test_what_is_shown_is_as_upright_as_the_picture(server: Any, tmp_path: Path, format: str) -> None:
    (tmp_path / "output/x.img").write_bytes(rotated(format))
    for query in ("preview=webp;90", "preview=jpeg;90", "channel=rgb", "channel=a", "preview=webp&channel=a"):
        status, data = await server.get(f"/view?filename=x.img&{query}")
        assert status == 200
        shown = opened(data)
        assert shown.size == (20, 40), query
        if "=a" not in query:
            red, _, blue = shown.convert("RGB").getpixel((10, 5))  # type: ignore[misc]
            assert red > 200 and blue < 60, query
        assert opened(data).getexif().get(0x0112, 1) == 1, "a browser would turn it again"


async def test_a_mask_drawn_on_a_turned_photo_is_taken(server: Any, tmp_path: Path) -> None:
    (tmp_path / "input/photo.jpg").write_bytes(rotated())
    form = aiohttp.FormData()
    form.add_field("image", server.picture("PNG", "RGBA", (0, 0, 0, 77), (20, 40)), filename="mask.png")
    form.add_field("original_ref", '{"filename": "photo.jpg", "type": "input"}')
    status, answer = await server.request("POST", "/upload/mask", data=form)
    assert status == 200, answer
    masked = opened((tmp_path / "input" / answer["name"]).read_bytes())
    assert masked.size == (20, 40)
    assert masked.getpixel((10, 5))[3] == 77  # type: ignore[index]
    assert masked.getpixel((10, 5))[0] > 200  # type: ignore[index]


def _large(path: Path, size: tuple[int, int]) -> None:
    """A picture with many pixels and few bytes."""
    Image.linear_gradient("L").resize(size).convert("RGB").save(path, "PNG", compress_level=1)


async def test_a_picture_beyond_the_budget_is_shown_smaller_or_as_it_is(start: Any, tmp_path: Path) -> None:
    server = await start(picture_memory_mb=16)  # 12 MB for one: a million pixels whole
    _large(tmp_path / "output/fits.png", (1000, 900))
    _large(tmp_path / "output/smaller.png", (1500, 1500))
    _large(tmp_path / "output/huge.png", (4000, 4000))
    Image.linear_gradient("L").resize((4000, 4000)).convert("RGB").save(tmp_path / "output/huge.jpg")
    assert opened((await server.get("/view?filename=fits.png&preview=webp"))[1]).size == (1000, 900)
    smaller = opened((await server.get("/view?filename=smaller.png&preview=webp"))[1])
    assert smaller.format == "WEBP" and 300 < smaller.width < 1500
    whole = (tmp_path / "output/huge.png").read_bytes()
    assert (await server.get("/view?filename=huge.png&preview=webp"))[1] == whole
    drafted = opened((await server.get("/view?filename=huge.jpg&preview=jpeg"))[1])
    assert 500 <= drafted.width <= 2000
    status, answer = await server.get("/view?filename=huge.png&channel=rgb")
    assert status == 404
    assert "http.picture_memory_mb" in answer["error"]["message"]


async def test_large_previews_hold_up_nobody_and_give_their_memory_back(start: Any, tmp_path: Path) -> None:
    server = await start()
    _large(tmp_path / "output/large.png", (5000, 5000))
    (tmp_path / "output/small.png").write_bytes(server.picture())
    await server.get("/view?filename=small.png&preview=webp")
    process = psutil.Process()
    before = most = process.memory_info().rss
    large = [
        asyncio.create_task(server.get(f"/view?filename=large.png&preview=webp;{80 + number}"))
        for number in range(4)
    ]
    slowest = 0.0
    while not all(task.done() for task in large):
        began = time.perf_counter()
        assert (await server.request("POST", "/userdata/x.json", data=b"1"))[0] == 200
        assert (await server.get("/system_stats"))[0] == 200
        assert (await server.get(f"/view?filename=small.png&preview=webp;{int(began * 10) % 90 + 1}"))[
            0
        ] == 200
        slowest = max(slowest, time.perf_counter() - began)
        most = max(most, process.memory_info().rss)
        await asyncio.sleep(0.02)
    for task in large:
        status, data = task.result()
        assert status == 200 and len(data) > 1000
    assert slowest < 2
    assert most - before < 500 * 1024**2  # each takes about 200
    assert process.memory_info().rss - before < 150 * 1024**2


async def test_previews_whose_clients_left_are_given_up(start: Any, tmp_path: Path) -> None:
    server = await start()
    _large(tmp_path / "output/large.png", (5000, 5000))
    host, port = server.http.addresses[0]
    for number in range(30):  # minutes of work
        _, writer = await asyncio.open_connection(host, port)
        writer.write(
            b"GET /view?filename=large.png&preview=webp;%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            % (50 + number)
        )
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.transport.abort()
    began = time.perf_counter()
    (tmp_path / "output/other.png").write_bytes(server.picture(size=(3000, 2500)))
    assert (await server.get("/view?filename=other.png&preview=webp"))[0] == 200
    assert time.perf_counter() - began < 8


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
