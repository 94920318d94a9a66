"""Uploading files and looking at them; no name leads out of the folders."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from comfyk_http.forms import UPLOADS
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


# --- upload -------------------------------------------------------------------------------------------------------


async def test_a_photo_comes_back_as_it_was(server: Any) -> None:
    photo = server.picture("JPEG", size=(640, 480))
    assert await server.upload(photo, "photo.jpg") == (
        200,
        {"name": "photo.jpg", "subfolder": "", "type": "input"},
    )
    async with server.client.get("/view?filename=photo.jpg&type=input") as response:
        assert response.status == 200
        assert response.content_type == "image/jpeg"
        assert response.headers["Content-Disposition"] == 'inline; filename="photo.jpg"'
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert await response.read() == photo
    assert (await server.get("/view?filename=photo.jpg [input]"))[1] == photo
    assert (await server.get("/view?filename=photo.jpg"))[0] == 404


async def test_what_is_arriving_is_bounded_on_the_disk(start: Any) -> None:
    server = await start(max_upload_size_mb=4, max_arriving_mb=6)
    half = asyncio.Event()

    async def slowly() -> Any:
        yield b"x" * 3_500_000
        await half.wait()
        yield b"y"

    first = asyncio.create_task(server.request("POST", "/userdata/a.bin", data=slowly()))
    arriving = server.http._runner.app[UPLOADS]
    await server.until(lambda: arriving.bytes == 3_500_000)
    for path in ("/userdata/b.bin", "/upload/image"):
        form = aiohttp.FormData()
        form.add_field("image", b"x" * 3_500_000, filename="b.bin")
        status, answer = await server.request("POST", path, data=form)
        assert (status, answer["error"]["type"]) == (503, "too_many_uploads")
        assert "http.max_arriving_mb" in answer["error"]["details"]
    assert (await server.request("POST", "/userdata/small.bin", data=b"x" * 1_000_000))[0] == 200
    half.set()
    assert (await first)[0] == 200
    assert (await server.request("POST", "/userdata/b.bin", data=b"x" * 3_500_000))[0] == 200
    assert not list(server.app.folders.base.rglob(".comfyk-upload-*"))


async def test_fields_may_come_before_and_after_the_file(server: Any) -> None:
    for before in (True, False):
        form = aiohttp.FormData()
        fields = [("type", "output"), ("subfolder", "a/b")]
        for name, value in fields if before else []:
            form.add_field(name, value)
        form.add_field("image", b"x%d" % before, filename="x.bin")
        for name, value in [] if before else fields:
            form.add_field(name, value)
        status, answer = await server.post("/upload/image", data=form)
        assert (status, answer["subfolder"], answer["type"]) == (200, "a/b", "output")
        found = await server.get(f"/view?filename={quote(answer['name'])}&subfolder=a/b&type=output")
        assert found == (200, b"x%d" % before)


async def test_a_name_is_used_once_and_the_same_content_stored_once(server: Any) -> None:
    names = [(await server.upload(data, "a.png"))[1]["name"] for data in (b"1", b"2", b"2", b"1", b"3")]
    assert names == ["a.png", "a (1).png", "a (1).png", "a.png", "a (2).png"]
    assert (await server.upload(b"4", "a.png", overwrite="true"))[1]["name"] == "a.png"
    assert (await server.get("/view?filename=a.png&type=input"))[1] == b"4"
    assert sorted(path.name for path in server.app.folders.input.iterdir()) == [
        "a (1).png",
        "a (2).png",
        "a.png",
    ]


async def test_a_name_may_hold_folders(server: Any) -> None:
    assert (await server.upload(b"x", "a/b/c.png"))[1]["name"] == "a/b/c.png"
    assert (server.app.folders.input / "a/b/c.png").read_bytes() == b"x"
    assert (await server.upload(b"x", "/d.png"))[1]["name"] == "d.png"


async def test_uploads_at_once_get_names_of_their_own(server: Any) -> None:
    answers = await asyncio.gather(*(server.upload(b"%d" % number, "same.png") for number in range(12)))
    names = {answer["name"]: number for number, (_, answer) in enumerate(answers)}
    assert len(names) == 12
    for name, number in names.items():
        assert (server.app.folders.input / name).read_bytes() == b"%d" % number


async def test_a_large_file_is_refused_and_leaves_nothing(start: Any) -> None:
    server = await start(max_upload_size_mb=1)
    assert (await server.upload(b"x" * 900_000))[0] == 200
    status, answer = await server.upload(b"x" * 2_000_000, "large.png")
    assert (status, answer["error"]["type"]) == (413, "too_large")
    assert "--max-upload-size" in answer["error"]["details"]

    async def endless() -> Any:
        for _ in range(40):
            yield b"x" * 50_000

    form = aiohttp.MultipartWriter("form-data")
    part = form.append(endless())
    part.set_content_disposition("form-data", name="image", filename="endless.png")
    try:
        assert (await server.post("/upload/image", data=form))[0] == 413
    except aiohttp.ClientError:
        pass  # the server need not take the rest before it closes
    assert [path.name for path in server.app.folders.input.iterdir()] == ["picture.png"]
    assert (await server.post("/prompt", data=b"x" * 2_000_000))[0] == 413


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("../x.png", {}),
        ("..", {}),
        (".", {}),
        ("x/../../y.png", {}),
        ("..\\x.png", {}),
        ("C:\\x.png", {}),
        ("con", {}),
        ("nul.png", {}),
        ("n" * 300 + ".png", {}),
        ("x.png", {"subfolder": ".."}),
        ("x.png", {"subfolder": "/etc"}),
        ("x.png", {"subfolder": "a/../../b"}),
        ("x.png", {"subfolder": "a\x00b"}),
        ("x.png", {"subfolder": "a" * 300}),
        ("x.png", {"subfolder": "a/" * 3000}),
        ("x.png", {"subfolder": "out"}),
        ("x.png", {"subfolder": "file"}),
        ("x.png", {"type": "models"}),
        ("x.png", {"type": "../output"}),
    ],
)
async def test_no_upload_leaves_its_folder(server: Any, tmp_path: Path, name: str, fields: Any) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "input/out").symlink_to(tmp_path / "outside")
    (tmp_path / "input/file").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    status, answer = await server.upload(b"x", name, **fields)
    assert status == 400
    assert answer["error"]["extra_info"]["field"] in ("image", "type")
    assert sorted(path for path in tmp_path.rglob("*") if not path.is_dir() or path in before) == before


async def test_uploads_that_are_none(server: Any) -> None:
    form = aiohttp.FormData()
    form.add_field("image", "text")
    bodies: list[Any] = [
        {},
        {"json": {"image": 1}},
        {"data": {"image": "text"}},
        {"data": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        {"data": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        {"data": b"--b\r\nx", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        {
            "data": b"--b\r\n\r\n--b--",
            "headers": {"Content-Type": "multipart/form-data; boundary=" + "b" * 200},
        },
        {
            "data": b'--b\r\nContent-Disposition: form-data; name="image"; filename=""\r\n\r\nx\r\n--b--\r\n',
            "headers": {"Content-Type": "multipart/form-data; boundary=b"},
        },
        {
            "data": b'--b\r\nContent-Disposition: form-data; name="type"\r\n\r\n\xff\r\n--b--\r\n',
            "headers": {"Content-Type": "multipart/form-data; boundary=b"},
        },
        {
            "data": b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n--b--\r\n",
            "headers": {"Content-Type": "multipart/form-data; boundary=b"},
        },
    ]
    for options in bodies:
        for path in ("/upload/image", "/upload/mask"):
            status, answer = await server.post(path, **options)
            assert status == 400, options
            assert answer["error"]["message"]
    assert list(server.app.folders.input.iterdir()) == []


async def test_an_upload_that_breaks_off_leaves_nothing(server: Any) -> None:
    host, port = server.http.addresses[0]
    _, writer = await asyncio.open_connection(host, port)
    writer.write(
        b"POST /upload/image HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\nhalf a file'
    )
    await writer.drain()
    await server.until(lambda: list(server.app.folders.input.iterdir()))
    writer.close()
    await server.until(lambda: not list(server.app.folders.input.iterdir()))
    assert (await server.upload(b"x"))[0] == 200


# --- mask ---------------------------------------------------------------------------------------------------------


async def upload_mask(server: Any, mask: bytes, ref: Any, name: str = "masked.png") -> tuple[int, Any]:
    form = aiohttp.FormData()
    form.add_field("image", mask, filename=name)
    form.add_field("original_ref", ref if isinstance(ref, str) else json.dumps(ref))
    form.add_field("type", "input")
    form.add_field("subfolder", "clipspace")
    return await server.post("/upload/mask", data=form)


async def test_a_mask_becomes_the_alpha_of_its_picture(server: Any) -> None:
    info = PngInfo()
    info.add_text("workflow", '{"nodes": []}')
    original = io.BytesIO()
    Image.new("RGB", (8, 4), (10, 20, 30)).save(original, "PNG", pnginfo=info)
    await server.upload(original.getvalue(), "original.png")
    mask = server.picture("PNG", "RGBA", (0, 0, 0, 77), (8, 4))
    status, answer = await upload_mask(server, mask, {"filename": "original.png", "type": "input"})
    assert (status, answer) == (200, {"name": "masked.png", "subfolder": "clipspace", "type": "input"})
    _, data = await server.get("/view?filename=masked.png&subfolder=clipspace&type=input")
    result = opened(data)
    assert result.getpixel((3, 2)) == (10, 20, 30, 77)
    assert result.text["workflow"] == '{"nodes": []}'  # type: ignore[attr-defined]


async def test_bad_masks(server: Any, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(server.picture())
    await server.upload(server.picture(), "good.png")
    await server.upload(b"\x89PNG\r\n\x1a\nbroken", "broken.png")
    good = {"filename": "good.png", "type": "input"}
    for mask, ref, name in [
        (b"no picture", good, "m.png"),
        (server.picture(), "", "m.png"),
        (server.picture(), "[]", "m.png"),
        (server.picture(), "{}", "m.png"),
        (server.picture(), {"filename": 5}, "m.png"),
        (server.picture(), {"filename": "good.png"}, "m.png"),
        (server.picture(), {"filename": "good.png", "type": "models"}, "m.png"),
        (server.picture(), {"filename": "../secret.png", "type": "input"}, "m.png"),
        (server.picture(), {"filename": "secret.png", "type": "input", "subfolder": ".."}, "m.png"),
        (server.picture(), {"filename": "broken.png", "type": "input"}, "m.png"),
        (server.picture(size=(3, 3)), good, "m.png"),
        (server.picture(), good, "m.jpg"),
    ]:
        status, answer = await upload_mask(server, mask, ref, name)
        assert status == 400, (ref, name)
        assert answer["error"]["extra_info"]["field"]
    assert sorted(path.name for path in server.app.folders.input.iterdir()) == ["broken.png", "good.png"]


# --- view ---------------------------------------------------------------------------------------------------------


TRAVERSALS = [
    "..", "../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "..%252fsecret.txt", "....//secret.txt",
    "/etc/passwd", "//etc/passwd", "%2fetc%2fpasswd", "..\\secret.txt", "..%5csecret.txt", "\\\\host\\share\\x",
    "C:\\secret.txt", "C:secret.txt", "file:///etc/passwd", "x%00.png", "secret.txt%00.png", "con", "NUL.txt",
    "link.txt", "linked/secret.txt", "n" * 300, "a/" * 3000 + "x", ".", "", "%ED%A0%80.png", "sub/../../secret.txt",
    "../secret.txt [input]", "[input]", " [output]", "~/secret.txt", "$HOME/x",
]  # fmt: skip


@pytest.mark.parametrize("name", TRAVERSALS)
async def test_nothing_outside_is_seen(server: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "output/sub").mkdir()
    (tmp_path / "output/link.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "output/linked").symlink_to(tmp_path)
    for query in (
        f"filename={name}",
        f"filename={name}&preview=webp",
        f"filename=secret.txt&subfolder={name}",
        f"filename=secret.txt&type={name}",
        f"filename=secret.txt&subfolder=sub&type={name}",
    ):
        host, port = server.http.addresses[0]
        reader, writer = await asyncio.open_connection(host, port)
        line = (
            f"GET /view?{query.replace(' ', '%20')} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        writer.write(line.encode())
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 404"), (query, answer)
        assert b"Traceback" not in answer
        assert b'"error"' in answer


async def test_links_inside_are_followed(server: Any, tmp_path: Path) -> None:
    (tmp_path / "output/real.txt").write_text("text")
    (tmp_path / "output/alias.txt").symlink_to(tmp_path / "output/real.txt")
    assert await server.get("/view?filename=alias.txt") == (200, b"text")


@pytest.mark.parametrize(
    "name",
    ["x.html", "x.htm", "x.svg", "x.js", "x.mjs", "x.css", "x.xml", "x.xhtml", "x.mht", "x.pdf", "x.swf"],
)
async def test_what_a_browser_would_run_is_only_saved(server: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "output" / name).write_text("<svg/>")
    async with server.client.get(f"/view?filename={name}") as response:
        assert response.status == 200
        assert response.content_type == "application/octet-stream"
        assert response.headers["Content-Disposition"].startswith("attachment;")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"


async def test_an_svg_is_shown_where_it_cannot_run(server: Any, tmp_path: Path) -> None:
    (tmp_path / "output/x.svg").write_text("<svg/>")
    async with server.client.get("/view?filename=x.svg", headers={"Sec-Fetch-Dest": "image"}) as response:
        assert response.content_type == "image/svg+xml"
        assert response.headers["Vary"] == "Sec-Fetch-Dest"
    async with server.client.get("/view?filename=x.svg", headers={"Sec-Fetch-Dest": "document"}) as response:
        assert response.content_type == "application/octet-stream"


@pytest.mark.parametrize("name", ['q"uo\\te.png', "ümlaut 图.png", "semi;colon.png"])
async def test_any_name_fits_into_the_header(server: Any, tmp_path: Path, name: str) -> None:
    if "\\" in name:
        name = name.replace("\\", "")
    (tmp_path / "output" / name).write_bytes(server.picture())
    async with server.client.get("/view", params={"filename": name}) as response:
        assert response.status == 200
        assert response.content_disposition.filename == name


async def test_ranges_and_validators(server: Any, tmp_path: Path) -> None:
    (tmp_path / "output/x.bin").write_bytes(bytes(range(100)))
    path = "/view?filename=x.bin"
    async with server.client.get(path, headers={"Range": "bytes=10-19"}) as response:
        assert response.status == 206
        assert response.headers["Content-Range"] == "bytes 10-19/100"
        assert await response.read() == bytes(range(10, 20))
        tag, modified = response.headers["ETag"], response.headers["Last-Modified"]
    for headers in ({"If-None-Match": tag}, {"If-Modified-Since": modified}):
        assert (await server.get(path, headers=headers))[0] == 304
    assert (await server.get(path, headers={"Range": "bytes=500-"}))[0] == 416
    async with server.client.head(path) as response:
        assert (response.status, response.content_length) == (200, 100)


async def test_a_download_is_resumed_only_where_the_file_is_the_same(server: Any, tmp_path: Path) -> None:
    file = tmp_path / "output/x.bin"
    file.write_bytes(b"A" * 10)
    path = "/view?filename=x.bin"
    async with server.client.get(path) as response:
        resume = {"Range": "bytes=5-", "If-Range": response.headers["ETag"]}
    assert await server.get(path, headers=resume) == (206, b"A" * 5)
    assert await server.get(path, headers={**resume, "If-Range": f"W/{resume['If-Range']}"}) == (
        200,
        b"A" * 10,
    )
    file.write_bytes(b"B" * 11)
    assert await server.get(path, headers=resume) == (200, b"B" * 11)


async def test_a_file_is_never_answered_with_its_neighbour(server: Any) -> None:
    """aiohttp takes `a.txt.gz` for a compressed `a.txt`."""
    await server.upload(b"one", "a.txt")
    await server.upload(b"another", "a.txt.gz")
    async with server.client.get(
        "/view?filename=a.txt&type=input", headers={"Accept-Encoding": "gzip, br"}
    ) as response:
        assert await response.read() == b"one"
        assert "Content-Encoding" not in response.headers
