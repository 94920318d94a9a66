"""What `comfyk.api` gives to authors of routes, used by a plugin that imports nothing else but aiohttp."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web
from comfyk import hookimpl
from comfyk.api import (
    Answer,
    ApiError,
    client_has,
    error_shape,
    file_answer,
    operation,
    read_file,
    read_form,
    read_json,
    scope_of,
    user_folder,
    user_of,
)
from pydantic import BaseModel

MB = 1024 * 1024


class Picture(BaseModel):
    """A form with a file that has to be there, and one that need not."""

    image: str
    thumbnail: str = ""
    title: str = ""
    stars: int = 0


class Problem(BaseModel):
    """As RFC 9457 has it."""

    title: str
    status: int


@error_shape(Problem, "application/problem+json")
def as_problem(error: ApiError) -> dict[str, Any]:
    return {"title": error.message, "status": error.status}


@error_shape(lambda: None)
def as_nothing(error: ApiError) -> Any:
    raise ValueError("cannot be written")


class Gallery:
    """A plugin as somebody else would write it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hashes: dict[str, str] = {}

    @hookimpl
    def comfyk_register_routes(self) -> list[web.RouteDef]:
        return [
            web.get("/gallery/me", self.me),
            web.post("/gallery/json", self.echo),
            web.post("/gallery/pictures", self.add),
            web.put("/gallery/raw/{name}", self.put),
            web.get("/gallery/files/{name}", self.get),
            web.get("/gallery/etag", self.tagged),
            web.get("/gallery/problem", self.problem),
            web.get("/gallery/nothing", self.nothing),
            web.get("/gallery/broken", self.broken),
        ]

    async def me(self, request: web.Request) -> web.Response:
        folder = await user_folder(request)
        return web.json_response([user_of(request), scope_of(request), folder.name])

    async def echo(self, request: web.Request) -> web.Response:
        return web.json_response(await read_json(request, optional=True))

    async def add(self, request: web.Request) -> web.Response:
        digests: dict[str, Any] = {}

        def watch(name: str, data: bytes) -> None:
            digests.setdefault(name, hashlib.sha256()).update(data)

        async with read_form(
            request, Picture, files=("image", "thumbnail"), folder=self.folder, watch=watch
        ) as form:
            image = form.files["image"]
            name = await asyncio.to_thread(image.place, self.folder, "", image.name, overwrite=False)
            return web.json_response(
                {
                    "name": name,
                    "size": image.size,
                    "sha256": {field: digest.hexdigest() for field, digest in digests.items()},
                    "fields": form.fields.model_dump(),
                    "files": sorted(form.files),
                }
            )

    async def put(self, request: web.Request) -> web.Response:
        async with read_file(request, folder=self.folder) as file:
            await asyncio.to_thread(file.put, self.folder / request.match_info["name"], overwrite=True)
            return web.json_response(file.size)

    async def get(self, request: web.Request) -> web.StreamResponse:
        show: Any = request.query.get("show", "safe")
        path = self.folder / request.match_info["name"]
        return file_answer(
            request, path, name=request.query.get("name", ""), show=show, etag=request.query.get("etag", "")
        )

    async def tagged(self, request: web.Request) -> web.Response:
        return web.json_response(client_has(request, "abc"))

    @operation("getProblem", "Fails", tag="gallery", errors=as_problem, answers={200: Answer("Never")})
    async def problem(self, request: web.Request) -> web.Response:
        raise ApiError(418, "teapot", "I am a teapot")

    @operation("getNothing", "Fails", tag="gallery", errors=as_nothing, answers={200: Answer("Never")})
    async def nothing(self, request: web.Request) -> web.Response:
        raise ApiError(418, "teapot", "I am a teapot")

    @operation(
        "getBroken",
        "Is described by what is not there",
        tag="gallery",
        query="what is no type",
        errors=lambda error: {"oh": error.type},  # type: ignore[arg-type]
        answers={200: Answer("No such model", "no_such_package:Model"), 201: Answer("No schema", object())},
    )
    async def broken(self, request: web.Request) -> web.Response:
        raise ApiError(400, "broken", "It is")


@pytest.fixture
async def server(start: Any, tmp_path: Path) -> Any:
    (tmp_path / "gallery").mkdir()
    return await start(plugins=[Gallery(tmp_path / "gallery")])


def form(**fields: Any) -> aiohttp.FormData:
    data = aiohttp.FormData(quote_fields=False, default_to_multipart=True)
    for name, value in fields.items():
        data.add_field(name, value, filename=f"{name}.bin" if isinstance(value, bytes) else None)
    return data


# --- who asks -----------------------------------------------------------------------------------------------------


async def test_who_asks(server: Any) -> None:
    assert await server.get("/gallery/me") == (200, ["default", None, "default"])
    assert await server.get("/gallery/me", headers={"Comfy-User": "anna"}) == (
        200,
        ["default", None, "default"],
    )


async def test_who_asks_among_many(start: Any, tmp_path: Path) -> None:
    server = await start(plugins=[Gallery(tmp_path)], multi_user=True)
    anna = (await server.post("/users", {"username": "anna"}))[1]
    assert await server.get("/gallery/me", headers={"Comfy-User": anna}) == (200, [anna, anna, anna])
    for unknown in ("nobody", "__comfyk", ""):
        assert (await server.get("/gallery/me", headers={"Comfy-User": unknown}))[0] == 401


async def test_a_request_of_another_server_is_none_of_ours() -> None:
    from aiohttp.test_utils import make_mocked_request

    with pytest.raises(RuntimeError, match="no request of a comfyk server"):
        user_of(make_mocked_request("GET", "/"))


# --- bodies -------------------------------------------------------------------------------------------------------


async def test_json_of_any_kind(server: Any) -> None:
    for sent, read in ((b"[1, null]", [1, None]), (b"5", 5), (b"", None), (b" ", None)):
        assert await server.post("/gallery/json", data=sent) == (200, read)
    for wrong in (b"{", b"NaN", b"\xff"):
        status, answer = await server.post("/gallery/json", data=wrong)
        assert (status, answer["error"]["type"]) == (400, "invalid_json")


async def test_a_form_with_files(server: Any, tmp_path: Path) -> None:
    status, answer = await server.post(
        "/gallery/pictures", data=form(stars="3", image=b"one", extra=b"unasked", title="Sea")
    )
    assert (status, answer) == (
        200,
        {
            "name": "image.bin",
            "size": 3,
            "sha256": {"image": hashlib.sha256(b"one").hexdigest()},
            "fields": {"image": "image.bin", "thumbnail": "", "title": "Sea", "stars": 3},
            "files": ["image"],
        },
    )
    status, answer = await server.post("/gallery/pictures", data=form(image=b"two", thumbnail=b"small"))
    assert (answer["files"], answer["fields"]["thumbnail"]) == (["image", "thumbnail"], "thumbnail.bin")
    names = sorted(path.name for path in (tmp_path / "gallery").iterdir())
    assert names == ["image (1).bin", "image.bin"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"title": "no file"}, "image"),
        ({"image": "a text"}, "image"),
        ({"image": b"x", "stars": "many"}, "stars"),
        ({"image": b"x", "title": "x" * 70_000}, "title"),
    ],
)
async def test_forms_that_are_refused_leave_nothing(
    server: Any, tmp_path: Path, fields: Any, field: str
) -> None:
    status, answer = await server.post("/gallery/pictures", data=form(**fields))
    assert (status, answer["error"]["extra_info"]) == (400, {"field": field})
    assert list((tmp_path / "gallery").iterdir()) == []


async def test_no_name_leads_out_of_the_folder(server: Any, tmp_path: Path) -> None:
    for name in ("../x", "/etc/x", "..", "con", "a\\..\\..\\x"):
        data = aiohttp.FormData(quote_fields=False)
        data.add_field("image", b"x", filename=name)
        status, answer = await server.post("/gallery/pictures", data=data)
        if name == "/etc/x":  # aiohttp takes the slash away
            assert (tmp_path / "gallery" / answer["name"]).read_bytes() == b"x"
        else:
            assert (status, answer["error"]["extra_info"]) == (400, {"field": "image"})
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("x")] == [Path("gallery/etc/x")]


async def test_large_files_do_not_go_through_memory(start: Any, tmp_path: Path) -> None:
    (tmp_path / "gallery").mkdir()
    server = await start(plugins=[Gallery(tmp_path / "gallery")], max_upload_size_mb=600)
    process, sizes = psutil.Process(), []

    async def pieces() -> AsyncIterator[bytes]:
        piece = b"x" * MB
        for number in range(400):
            if number % 20 == 0:
                sizes.append(process.memory_info().rss)
            yield piece

    assert await server.request("PUT", "/gallery/raw/warm.bin", data=b"x" * 8 * MB) == (200, 8 * MB)
    assert await server.request("PUT", "/gallery/raw/large.bin", data=pieces()) == (200, 400 * MB)
    writer = aiohttp.MultipartWriter("form-data")
    part = writer.append(pieces(), {"Content-Type": "application/octet-stream"})
    part.set_content_disposition("form-data", name="image", filename="form.bin")
    status, answer = await server.post("/gallery/pictures", data=writer)
    assert (status, answer["size"]) == (200, 400 * MB)
    expected = hashlib.sha256()
    for _ in range(400):  # nor through the test's
        expected.update(b"x" * MB)
    assert answer["sha256"]["image"] == expected.hexdigest()
    read = 0
    async with server.client.get("/gallery/files/large.bin") as response:
        async for piece in response.content.iter_chunked(MB):
            read += len(piece)
            sizes.append(process.memory_info().rss)
    assert read == 400 * MB
    assert max(sizes) - min(sizes) < 60 * MB


async def test_more_than_the_server_takes(start: Any, tmp_path: Path) -> None:
    (tmp_path / "gallery").mkdir()
    server = await start(plugins=[Gallery(tmp_path / "gallery")], max_upload_size_mb=1)
    for send in (
        server.request("PUT", "/gallery/raw/x", data=b"x" * 2 * MB),
        server.post("/gallery/pictures", data=form(image=b"x" * 2 * MB)),
    ):
        status, answer = await send
        assert (status, answer["error"]["type"]) == (413, "too_large")
    assert list((tmp_path / "gallery").iterdir()) == []


# --- files as answers ---------------------------------------------------------------------------------------------


async def test_ranges_and_validators(server: Any, tmp_path: Path) -> None:
    (tmp_path / "gallery/x.bin").write_bytes(bytes(range(100)))
    for path, tag in (
        ("/gallery/files/x.bin", None),
        ("/gallery/files/x.bin?etag=blake3-abc", '"blake3-abc"'),
    ):
        async with server.client.get(path, headers={"Range": "bytes=10-19"}) as response:
            assert (response.status, await response.read()) == (206, bytes(range(10, 20)))
            assert response.headers["Content-Range"] == "bytes 10-19/100"
            found = response.headers["ETag"]
        assert tag in (None, found)
        for held in (found, f"W/{found}", f'"other", {found}', "*"):
            async with server.client.get(path, headers={"If-None-Match": held}) as response:
                assert (response.status, response.headers["ETag"]) == (304, found)
        async with server.client.get(path, headers={"If-None-Match": '"other"'}) as response:
            assert (response.status, len(await response.read())) == (200, 100)
        assert (await server.get(path, headers={"If-Match": found}))[0] == 200
        assert (await server.get(path, headers={"If-Match": '"other"'}))[0] == 412
        for held, status in ((found, 206), ('"other"', 200)):
            headers = {"Range": "bytes=10-19", "If-Range": held}
            assert (await server.get(path, headers=headers))[0] == status
        assert (await server.get(path, headers={"Range": "bytes=500-"}))[0] == 416
        async with server.client.head(path) as response:
            assert (response.status, response.content_length) == (200, 100)
    assert (await server.get("/gallery/files/none.bin"))[0] == 404
    assert (await server.get("/gallery/files/none.bin?etag=abc", headers={"If-None-Match": "*"}))[0] == 404


async def test_a_tag_of_ones_own_is_not_that_of_time_and_size(server: Any, tmp_path: Path) -> None:
    (tmp_path / "gallery/x.bin").write_bytes(b"x")
    async with server.client.get("/gallery/files/x.bin") as response:
        other = response.headers["ETag"]
    path = "/gallery/files/x.bin?etag=abc"
    assert (await server.get(path, headers={"If-None-Match": other}))[0] == 200
    assert (await server.get(path, headers={"If-Match": other}))[0] == 412


@pytest.mark.parametrize(
    ("name", "show", "type", "kind"),
    [
        ("x.png", "safe", "image/png", "inline"),
        ("x.png", "save", "image/png", "attachment"),
        ("x.html", "safe", "application/octet-stream", "attachment"),
        ("x.html", "save", "application/octet-stream", "attachment"),
        ("x.html", "run", "text/html", None),
        ("x.js", "run", "text/javascript", None),
        ("x.svg", "safe", "application/octet-stream", "attachment"),
    ],
)
async def test_what_browsers_may_do(
    server: Any, tmp_path: Path, name: str, show: str, type: str, kind: str | None
) -> None:
    (tmp_path / "gallery" / name).write_bytes(b"x")
    async with server.client.get(f"/gallery/files/{name}?show={show}") as response:
        assert response.content_type == type
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        found = response.headers.get("Content-Disposition")
        assert found == (None if kind is None else f'{kind}; filename="{name}"')


async def test_a_file_is_saved_under_the_name_that_it_is_given(server: Any, tmp_path: Path) -> None:
    (tmp_path / "gallery/0123abcd").write_bytes(b"x")
    async with server.client.get("/gallery/files/0123abcd", params={"name": 'Mein "Bild" ü.png'}) as response:
        assert response.content_type == "image/png"
        assert response.content_disposition is not None
        assert response.content_disposition.filename == 'Mein "Bild" ü.png'


async def test_what_a_client_has(server: Any) -> None:
    for held, has in (('"abc"', True), ('W/"x", W/"abc"', True), ("*", True), ('"x"', False), ("abc", False)):
        assert await server.get("/gallery/etag", headers={"If-None-Match": held}) == (200, has)
    assert await server.get("/gallery/etag") == (200, False)


# --- errors, and the document --------------------------------------------------------------------------------------


async def test_errors_in_a_shape_of_ones_own(server: Any, caplog: Any) -> None:
    async with server.client.get("/gallery/problem") as response:
        assert response.headers["Content-Type"].startswith("application/problem+json")
        assert (response.status, await response.json(content_type=None)) == (
            418,
            {"title": "I am a teapot", "status": 418},
        )
    assert await server.get("/gallery/broken") == (400, {"oh": "broken"})
    with caplog.at_level(logging.ERROR):
        status, answer = await server.get("/gallery/nothing")
    assert (status, answer["error"]["type"]) == (418, "teapot")
    assert "cannot be written" in caplog.text


async def test_the_document_has_what_is_known_and_survives_what_is_wrong(server: Any, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        status, document = await server.get("/openapi.json")
    assert status == 200
    problem = document["paths"]["/api/gallery/problem"]["get"]["responses"]["4XX"]
    assert problem["content"] == {
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
    }
    assert document["components"]["schemas"]["Problem"]["required"] == ["title", "status"]
    assert "/api/gallery/me" not in document["paths"]
    broken = document["paths"]["/api/gallery/broken"]["get"]["responses"]
    assert broken["4XX"]["content"] == {"application/json": {"schema": {}}}
    assert broken["200"]["content"] == {"application/json": {"schema": {}}}
    assert "getBroken of the plugin plugin0 is not described whole" in caplog.text
    assert "ErrorObject" in document["components"]["schemas"]
    assert (await server.get("/docs"))[0] == 200


async def test_the_example_in_the_documentation(start: Any, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/plugins.md").read_text(encoding="utf-8")
    code = text.partition("\n## Routes\n")[2].partition("```python\n")[2].partition("```")[0]
    plugin = types.ModuleType("documented")
    exec(compile(code, "docs/plugins.md", "exec"), plugin.__dict__)
    server = await start(plugins=[plugin])
    name = hashlib.sha256(b"a picture").hexdigest()
    status, answer = await server.post("/hello/pictures", data=form(picture=b"a picture", title="Sea"))
    assert (status, answer) == (200, {"hash": name, "title": "Sea", "by": "default"})
    assert (tmp_path / "user/default/pictures" / name).read_bytes() == b"a picture"
    async with server.client.get(f"/api/hello/pictures/{name}") as response:
        assert (response.headers["ETag"], await response.read()) == (f'"{name}"', b"a picture")
    async with server.client.get(f"/hello/pictures/{'0' * 64}") as response:
        assert (response.status, response.content_type) == (404, "application/problem+json")
    _, document = await server.get("/openapi.json")
    body = document["paths"]["/api/hello/pictures"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert body["schema"] == {"$ref": "#/components/schemas/Upload"}
