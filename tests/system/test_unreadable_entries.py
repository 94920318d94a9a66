"""Links that cannot be followed, wherever a server looks: each is left out, named once, and all else is there."""

from __future__ import annotations

import os
from pathlib import Path


def unreadable(folder: Path, *suffixes: str) -> None:
    """Links in a circle, and one that raises what a disk that is gone would raise."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in suffixes or ("",):
        os.symlink(f"loop{suffix}", folder / f"loop{suffix}")
        os.symlink("x" * 300, folder / f"far{suffix}")


async def test_every_listing_leaves_out_what_cannot_be_read(server, session, tmp_path: Path) -> None:
    pictures = (".png", ".mp4", ".wav", ".latent", ".safetensors", "")
    for folder in ("input", "output", "temp"):
        unreadable(tmp_path / folder, *pictures)
        unreadable(tmp_path / folder / "sub", *pictures)
    kinds = (
        "checkpoints",
        "vae",
        "vae_approx",
        "embeddings",
        "loras",
        "diffusers",
        "configs",
        "upscale_models",
    )
    for kind in kinds:
        unreadable(tmp_path / "models" / kind, ".safetensors", ".yaml", "")
        unreadable(tmp_path / "models" / kind / "sub", ".safetensors", "")
    unreadable(tmp_path / "custom_nodes", ".py", "")
    pack = tmp_path / "custom_nodes" / "pack"
    unreadable(pack / "js", ".js", "")
    unreadable(pack / "locales", "")
    unreadable(pack / "locales" / "en", ".json")
    unreadable(pack / "example_workflows", ".json")
    unreadable(pack / "subgraphs", ".json")
    unreadable(tmp_path / "user" / "default" / "workflows", ".json", "")
    (pack / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\nWEB_DIRECTORY = 'js'\n")
    (pack / "js" / "good.js").write_text("")
    (pack / "example_workflows" / "good.json").write_text("{}")
    (pack / "locales" / "de").mkdir()
    (pack / "locales" / "de" / "main.json").write_text('{"good": "gut"}')
    (tmp_path / "user" / "default" / "workflows" / "good.json").write_text("{}")
    (tmp_path / "input" / "good.png").write_bytes(b"")
    (tmp_path / "models" / "checkpoints" / "good.safetensors").write_bytes(b"")
    await server.start()

    async def get(path: str):
        async with session.get(server.url + path) as answer:
            assert answer.status == 200, f"{path}: {await answer.text()}"
            return await answer.json()

    for _ in range(2):
        nodes = await get("/object_info")
    assert nodes["LoadImage"]["input"]["required"]["image"][0] == ["good.png"]
    assert nodes["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0] == ["good.safetensors"]
    assert not [line for line in server.log if "left out of object_info" in line]
    assert await get("/models/checkpoints") == ["good.safetensors"]
    for kind in kinds:
        listed = [*await get(f"/models/{kind}"), *await get(f"/experiment/models/{kind}")]
        assert not [one for one in listed if "loop" in str(one) or "far" in str(one)]
    assert await get("/internal/files/input") == ["good.png [input]"]
    assert await get("/internal/files/output") == []
    assert "/extensions/pack/good.js" in await get("/extensions")
    assert (await get("/workflow_templates"))["pack"] == ["good"]
    assert (await get("/i18n"))["de"] == {"good": "gut"}
    assert isinstance(await get("/global_subgraphs"), dict)
    assert await get("/userdata?dir=workflows&recurse=true") == ["good.json"]
    assert "good.json" in [one["name"] for one in await get("/v2/userdata?path=workflows")]
    assert await get("/embeddings") == []
    warnings = [line for line in server.log if " is left out, it cannot be read" in line]
    assert any("/input/far.png " in line for line in warnings)
    paths = [line.partition("WARNING ")[2] for line in warnings]
    assert len(paths) == len(set(paths)), "each is named once"
    assert await server.stop() == 0
