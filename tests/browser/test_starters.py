"""The starter workflows in the web UI: the first visit, and that they are what the UI itself would save and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from comfyk.workflows import to_prompt
from comfyk_frontend.starters import FOLDER
from PIL import Image
from playwright.async_api import expect

from ..core_nodes.tiny_models import make_checkpoint

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = sorted(path.stem for path in FOLDER.glob("starter_*.json"))
FILES = (
    "checkpoints/v1-5-pruned-emaonly-fp16.safetensors",
    "checkpoints/sd_xl_base_1.0.safetensors",
    "loras/style.safetensors",
    "controlnet/control_v11p_sd15_canny_fp16.safetensors",
    "upscale_models/RealESRGAN_x4plus.safetensors",
)


def add_models(models: Path) -> None:
    """The demo model, tiny and random; of the others the names, which is all that a check of a prompt looks at."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(5)
    demo = models / "checkpoints/comfyk-demo.safetensors"
    demo.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in make_checkpoint("sd1").items()}, demo)
    for name in FILES:
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).touch()


async def test_a_new_browser_has_a_workflow_that_runs_with_one_click(fresh_ui: Any) -> None:
    add_models(fresh_ui.server.base / "models")
    await fresh_ui.open()
    await fresh_ui.until("app.graph.nodes.length === 8")
    await expect(fresh_ui.page.get_by_test_id("workflow-tab").last).to_contain_text("starter_demo")
    await expect(fresh_ui.dialog()).to_have_count(0)
    await fresh_ui.run()
    await fresh_ui.until("app.graph.nodes.some((node) => node.imgs?.[0]?.naturalWidth === 128)")
    [picture] = (fresh_ui.server.base / "output").glob("demo_*.png")
    assert Image.open(picture).size == (128, 128)
    assert "template" not in fresh_ui.page.url


async def test_it_is_there_once_and_then_what_was_open_last(fresh_ui: Any) -> None:
    await fresh_ui.new_workflow()
    await fresh_ui.page.keyboard.press("Control+s")
    await fresh_ui.dialog().get_by_role("textbox").fill("mine")
    async with fresh_ui.page.expect_response("**/api/userdata/workflows%2Fmine.json*"):
        await fresh_ui.dialog().get_by_role("button", name="Confirm").click()
    await fresh_ui.open()
    await expect(fresh_ui.page.get_by_test_id("workflow-tab").last).to_contain_text("mine")
    await fresh_ui.until("app.graph.nodes.length === 0")


async def test_the_starters_stand_first_among_the_templates(fresh_ui: Any) -> None:
    await fresh_ui.page.get_by_test_id("side-toolbar").get_by_label("Templates").click()
    cards = fresh_ui.dialog().locator("[data-testid^='template-workflow-']")
    await expect(cards.first).to_have_attribute("data-testid", "template-workflow-starter_demo")
    await expect(cards.nth(7)).to_have_attribute("data-testid", "template-workflow-starter_upscale")
    for index in range(8):
        await expect(cards.nth(index).locator("img").first).to_have_js_property("naturalWidth", 384)
    await cards.nth(3).click()
    await fresh_ui.until(
        "app.graph.nodes.some((node) => node.type === 'LoadImage' && node.imgs?.[0].complete)"
    )
    await expect(fresh_ui.page.get_by_test_id("workflow-tab").last).to_contain_text("starter_img2img")


async def test_each_is_the_prompt_that_the_ui_makes_of_it_and_can_run(fresh_ui: Any) -> None:
    async with aiohttp.ClientSession(fresh_ui.server.url) as client:
        async with client.get("/object_info") as response:
            nodes = await response.json()

        def schemas(name: str) -> Any:
            return nodes[name]["input"] if name in nodes else None

        async with client.post("/queue", json={"pause": True}) as response:
            assert response.status == 200
        for name in NAMES:
            workflow = json.loads((FOLDER / f"{name}.json").read_text())
            made = await fresh_ui.page.evaluate(
                "async (w) => { await app.loadGraphData(w); return (await app.graphToPrompt()).output; }",
                workflow,
            )
            ours = to_prompt(workflow, schemas)
            for node in (*made.values(), *ours.values()):
                node.pop("_meta", None)
            assert ours == made, name
            async with client.post("/prompt", json={"prompt": ours}) as response:
                answer = await response.json()
                assert (response.status, answer.get("node_errors")) == (200, {}), f"{name}: {answer}"
        async with client.post("/queue", json={"clear": True}) as response:
            assert response.status == 200
