"""The plugin in a running app: jobs from file names to files."""

from __future__ import annotations

from typing import Any

import pytest
from comfyk import io
from comfyk.app import App
from comfyk.jobs.model import JobStatus
from PIL import Image


def prompt(**nodes: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {node_id: {"class_type": name, "inputs": inputs} for node_id, (name, inputs) in nodes.items()}


async def test_a_job_from_picture_to_picture(app: App) -> None:
    Image.new("RGBA", (8, 4), (255, 0, 0, 128)).save(app.folders.input / "a.png")
    graph = prompt(
        load=("LoadImage", {"image": "a.png"}),
        scale=(
            "ImageScale",
            {"image": ["load", 0], "upscale_method": "area", "width": 4, "height": 0, "crop": "disabled"},
        ),
        save=("SaveImage", {"images": ["scale", 0], "filename_prefix": "%scale.width%/%LoadImage.image%"}),
        text=("PreviewAny", {"source": ["load", 1]}),
    )
    async with app:
        submission = await app.jobs.submit(graph, extra_data={"extra_pnginfo": {"workflow": {"id": "w"}}})
        outcome = await app.jobs.wait(submission.job.id)
    assert outcome.status is JobStatus.COMPLETED, outcome.error
    assert outcome.outputs["save"]["images"] == [
        {"filename": "a.png_00001_.png", "subfolder": "4", "type": "output"}
    ]
    assert outcome.outputs["text"]["text"][0].startswith("tensor(")
    with Image.open(app.folders.output / "4" / "a.png_00001_.png") as picture:
        assert picture.size == (4, 2)
        assert picture.getpixel((0, 0)) == (255, 0, 0)
        assert '"id": "w"' in picture.info["workflow"]


async def test_a_wrong_file_name_is_refused_before_it_is_queued(app: App) -> None:
    from comfyk.graph.validation import PromptError

    graph = prompt(load=("LoadImage", {"image": "gone.png"}), show=("PreviewImage", {"images": ["load", 0]}))
    async with app:
        with pytest.raises(PromptError) as caught:
            await app.jobs.submit(graph)
    assert "Invalid image file: gone.png" in str(vars(caught.value))


class NamesAPicture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="NamesAPicture", outputs=[io.Combo.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput("a.png")


async def test_a_file_name_may_come_over_a_link(app: App) -> None:
    Image.new("L", (8, 4), 51).save(app.folders.input / "a.png")
    app.nodes.add(NamesAPicture)
    graph = prompt(
        name=("NamesAPicture", {}),
        load=("LoadImageMask", {"image": ["name", 0], "channel": "red"}),
        show=("PreviewAny", {"source": ["load", 0]}),
    )
    async with app:
        for value in (51, 102):
            Image.new("L", (1, 1), value).save(app.folders.input / "a.png")
            submission = await app.jobs.submit(graph)
            outcome = await app.jobs.wait(submission.job.id)
            assert outcome.outputs["show"]["text"] == [f"tensor([[[{value / 255:.4f}]]])"]
