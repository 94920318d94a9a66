"""A new user's first workflow: a photo goes up, is scaled and inverted, and comes back with its workflow in it."""

from __future__ import annotations

import io
import json

import aiohttp
import pytest
from PIL import Image, ImageChops


def photo() -> tuple[bytes, Image.Image]:
    """A JPEG taken with the camera on its side, and what it shows upright."""
    upright = Image.merge(
        "RGB", [Image.linear_gradient("L").resize((300, 200)), Image.radial_gradient("L").resize((300, 200)),
                Image.new("L", (300, 200), 40)]
    )  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer has to turn it by 90 degrees clockwise
    file = io.BytesIO()
    upright.rotate(90, expand=True).save(file, "JPEG", quality=95, exif=exif)
    file.seek(0)
    return file.getvalue(), upright


WORKFLOW = {"id": "8f2c0f5e", "nodes": [], "links": [], "version": 0.4}


def prompt_for(name: str) -> dict:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {
            "class_type": "ImageScale",
            "inputs": {
                "image": ["1", 0],
                "upscale_method": "lanczos",
                "width": 150,
                "height": 100,
                "crop": "disabled",
            },
        },
        "3": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
        "4": {
            "class_type": "SaveImage",
            "inputs": {"images": ["3", 0], "filename_prefix": "photos/%width%x%height%"},
        },
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_a_photo_goes_through_a_workflow(server, session, prefix):
    await server.start()
    jpeg, upright = photo()
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("image", jpeg, filename="my photo.jpg", content_type="image/jpeg")
    async with session.post(f"{server.url}{prefix}/upload/image", data=form) as answer:
        assert answer.status == 200, await answer.text()
        uploaded = await answer.json()
    assert uploaded == {"name": "my photo.jpg", "subfolder": "", "type": "input"}

    messages = []
    async with session.ws_connect(f"{server.url}{prefix}/ws?clientId=me") as socket:
        body = {"prompt": prompt_for("my photo.jpg"), "client_id": "me",
                "extra_data": {"extra_pnginfo": {"workflow": WORKFLOW}}}  # fmt: skip
        async with session.post(f"{server.url}{prefix}/prompt", json=body) as answer:
            assert answer.status == 200, await answer.text()
            accepted = await answer.json()
        assert accepted["node_errors"] == {}
        job_id = accepted["prompt_id"]
        async for message in socket:
            event = json.loads(message.data)
            messages.append((event["type"], event["data"].get("node")))
            if event["type"] == "executing" and event["data"]["node"] is None:
                break

    kinds = [kind for kind, _ in messages]
    assert kinds.index("execution_start") < kinds.index("execution_cached") < kinds.index("executing")
    assert {node for kind, node in messages if kind == "executed"} == {"4", "5"}
    assert "progress_state" in kinds
    assert kinds[-1] == "executing" and "execution_success" in kinds

    async with session.get(f"{server.url}{prefix}/history/{job_id}") as answer:
        entry = (await answer.json())[job_id]
    assert entry["status"]["status_str"] == "success" and entry["status"]["completed"]
    (saved,) = entry["outputs"]["4"]["images"]
    assert saved == {"filename": "150x100_00001_.png", "subfolder": "photos", "type": "output"}
    (preview,) = entry["outputs"]["5"]["images"]
    assert preview["type"] == "temp"

    async with session.get(f"{server.url}{prefix}/view", params=saved) as answer:
        assert answer.status == 200 and answer.content_type == "image/png"
        data = await answer.read()
    assert data == (server.base / "output" / "photos" / "150x100_00001_.png").read_bytes()
    picture = Image.open(io.BytesIO(data))
    assert json.loads(picture.text["prompt"])["2"]["inputs"]["width"] == 150
    assert json.loads(picture.text["workflow"]) == WORKFLOW
    expected = ImageChops.invert(upright.resize((150, 100), Image.Resampling.LANCZOS))
    difference = ImageChops.difference(picture.convert("RGB"), expected).getextrema()
    assert max(high for _, high in difference) < 16  # what JPEG loses

    async with session.get(f"{server.url}{prefix}/view", params=preview) as answer:
        shown = Image.open(io.BytesIO(await answer.read()))
    assert shown.size == (150, 100)
    assert await server.stop() == 0


async def test_saving_twice_overwrites_nothing(server, session):
    await server.start()
    for name, color in (("red.png", "red"), ("blue.png", "blue")):
        file = io.BytesIO()
        Image.new("RGB", (32, 32), color).save(file, "PNG")
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("image", file.getvalue(), filename=name, content_type="image/png")
        async with session.post(server.url + "/upload/image", data=form):
            pass
        async with session.ws_connect(server.url + "/ws?clientId=me") as socket:
            async with session.post(
                server.url + "/prompt", json={"prompt": prompt_for(name), "client_id": "me"}
            ) as answer:
                assert answer.status == 200
            async for message in socket:
                event = json.loads(message.data)
                if event["type"] == "executing" and event["data"]["node"] is None:
                    break
    saved = sorted((server.base / "output" / "photos").iterdir())
    assert [path.name for path in saved] == ["150x100_00001_.png", "150x100_00002_.png"]
    assert [Image.open(path).getpixel((9, 9)) for path in saved] == [(0, 255, 255), (255, 255, 0)]
