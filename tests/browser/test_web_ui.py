"""What people do in the web UI, done by hand, as it were."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import comfyk
import pytest
from PIL import Image
from playwright.async_api import expect

pytestmark = pytest.mark.asyncio(loop_scope="module")


def picture(color: str = "#204060", size: tuple[int, int] = (96, 64)) -> bytes:
    """An encoded PNG."""
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def workflow(image: str, *, prefix: str, gated: bool = False) -> dict[str, Any]:
    """Load a picture, scale it, invert it, show it and save it, in the form that the UI saves."""
    kinds: list[tuple[str, list[Any]]] = [
        ("LoadImage", [image, "image"]),
        ("ImageScale", ["nearest-exact", 48, 32, "disabled"]),
        ("ImageInvert", []),
        *([("GatedSteps", [])] if gated else []),
        ("PreviewImage", []),
        ("SaveImage", [prefix]),
    ]
    nodes: list[dict[str, Any]] = []
    links: list[list[Any]] = []
    for id, (kind, values) in enumerate(kinds, 1):
        node: dict[str, Any] = {
            "id": id, "type": kind, "pos": [80 + 240 * ((id - 1) % 4), 120 + 360 * ((id - 1) // 4)],
            "size": [210, 120], "flags": {}, "order": id, "mode": 0, "inputs": [], "outputs": [],
            "properties": {}, "widgets_values": values,
        }  # fmt: skip
        if kind not in ("PreviewImage", "SaveImage"):
            node["outputs"].append({"name": "IMAGE", "type": "IMAGE", "links": []})
        if id > 1:
            source = id - 2 if kind == "SaveImage" else id - 1
            name = "images" if kind in ("PreviewImage", "SaveImage") else "image"
            node["inputs"].append({"name": name, "type": "IMAGE", "link": id})
            nodes[source - 1]["outputs"][0]["links"].append(id)
            links.append([id, source, 0, id, 0, "IMAGE"])
        nodes.append(node)
    return {
        "last_node_id": len(nodes), "last_link_id": len(nodes), "nodes": nodes, "links": links,
        "groups": [], "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip


def saved(ui: Any, prefix: str) -> list[Any]:
    return sorted((ui.server.base / "output").glob(f"{prefix}_*.png"))


async def test_it_loads_for_a_new_user_and_offers_templates(fresh_ui: Any) -> None:
    await fresh_ui.open()
    await expect(fresh_ui.page.get_by_test_id("workflow-tab").last).to_contain_text("starter_sd15")
    await fresh_ui.page.get_by_test_id("side-toolbar").get_by_label("Templates").click()
    await expect(fresh_ui.dialog().get_by_test_id("template-workflows-content")).to_be_visible()
    await expect(fresh_ui.dialog().locator("img").first).to_be_visible()
    await fresh_ui.dialog().get_by_label("Close dialog").click()
    await expect(fresh_ui.page.get_by_test_id("queue-button")).to_be_enabled()


async def test_a_packs_script_runs_in_the_page(ui: Any) -> None:
    assert await ui.page.evaluate("app.extensions.some((one) => one.name === 'test.extension')")
    await ui.until("window.nodesSeenByThePack > 100")


async def test_a_template_opens(ui: Any) -> None:
    await ui.page.get_by_test_id("side-toolbar").get_by_label("Templates").click()
    await ui.dialog().get_by_placeholder("Search").fill("SDXL1.0: Text to Image (Simple)")
    # The cards change places when the search takes effect, and a click would land on another one.
    await expect(ui.dialog()).to_contain_text(re.compile(r"Showing \d{1,2} of"))
    await ui.dialog().get_by_test_id("template-workflow-image_sdxl_simple").click()
    await ui.until("app.graph.nodes.length > 0")
    await expect(ui.page.get_by_test_id("workflow-tab").last).to_contain_text("image_sdxl_simple")


async def test_the_node_library_finds_adds_and_explains_a_node(ui: Any) -> None:
    await ui.page.get_by_test_id("node-library-tab-button").click()
    panel = ui.page.locator(".side-bar-panel")
    await expect(panel.get_by_text("image", exact=True)).to_be_visible()
    await panel.get_by_placeholder("Search Nodes").fill("invert image")
    await panel.get_by_text("Invert Image Colors").click()
    await ui.page.locator("#graph-canvas").click(position={"x": 800, "y": 400})
    await ui.until("app.graph.nodes.filter((node) => !node.flags.ghost).length === 1")
    assert await ui.nodes() == ["ImageInvert"]
    await ui.page.keyboard.press("Control+a")
    await ui.page.get_by_test_id("info-button").click()
    await expect(ui.page.get_by_test_id("properties-panel")).to_contain_text("negative images")
    await ui.page.get_by_label("Toggle properties panel").click()


async def test_nodes_are_added_by_search(ui: Any) -> None:
    canvas = ui.page.locator("#graph-canvas")
    for index, (name, title) in enumerate((("LoadImage", "Load Image"), ("SaveImage", "Save Image")), 1):
        await ui.open_search()
        await ui.page.get_by_placeholder("Add a node").fill(name)
        await ui.page.get_by_role("option").filter(has_text=title).first.click()
        await canvas.click(position={"x": 350 * index, "y": 500})  # until then it hangs on the pointer
        await ui.until("(n) => app.graph.nodes.filter((node) => !node.flags.ghost).length === n", index)
    assert await ui.nodes() == ["LoadImage", "SaveImage"]


async def test_a_dropped_picture_is_uploaded(ui: Any) -> None:
    data = picture("#806020")
    ui.expected.append("filename=brown.png")  # the UI asks for it once before it has sent it
    await ui.drop(data, "brown.png", "image/png")
    await ui.until("app.graph.nodes.length === 1 && app.graph.nodes[0].imgs?.[0].complete")
    assert await ui.page.evaluate("app.graph.nodes[0].widgets[0].value") == "brown.png"
    assert (ui.server.base / "input/brown.png").read_bytes() == data


async def test_a_prompt_runs_with_progress_and_shows_its_picture(ui: Any) -> None:
    (ui.server.base / "input/blue.png").write_bytes(picture("#204060"))
    ui.server.gate.unlink(missing_ok=True)
    await ui.open_workflow(workflow("blue.png", prefix="run", gated=True))
    await ui.run()
    await ui.until("document.title.includes('[50%] GatedSteps')")
    await expect(ui.page.get_by_test_id("queue-overlay-toggle")).to_contain_text("1 active")
    await ui.page.get_by_test_id("queue-overlay-toggle").click()
    jobs = ui.page.get_by_test_id("job-assets-list")
    await expect(jobs).to_contain_text("GatedSteps : 50%")
    ui.server.gate.touch()
    await expect(jobs).to_contain_text("run_00001_.png")
    await ui.until("app.graph.nodes.filter((node) => node.imgs?.[0].naturalWidth === 48).length === 2")
    with Image.open(saved(ui, "run")[0]) as image:
        assert image.size == (48, 32)
        assert image.convert("RGB").getpixel((0, 0)) == (0xDF, 0xBF, 0x9F)


async def test_the_queue_and_the_history_are_shown(ui: Any) -> None:
    (ui.server.base / "input/blue.png").write_bytes(picture("#204060"))
    ui.server.gate.unlink(missing_ok=True)
    await ui.open_workflow(workflow("blue.png", prefix="queue", gated=True))
    for waiting in range(1, 4):
        await ui.run()
        await expect(ui.page.get_by_test_id("queue-overlay-toggle")).to_contain_text(f"{waiting} active")
    await ui.page.get_by_test_id("queue-overlay-toggle").click()
    overlay = ui.page.get_by_test_id("queue-progress-overlay")
    await expect(overlay).to_contain_text(re.compile(r"1\s*running"))
    await overlay.get_by_label("Clear queued").click()
    await expect(ui.page.get_by_test_id("queue-overlay-toggle")).to_contain_text("1 active")
    ui.server.gate.touch()
    await expect(ui.page.get_by_test_id("queue-overlay-toggle")).to_contain_text("0 active")
    assert len(saved(ui, "queue")) == 1
    await ui.page.get_by_test_id("assets-tab-button").click()
    card = ui.page.locator(".side-bar-panel").get_by_label("queue_00001_.png")
    await expect(card).to_be_visible()
    await expect(ui.page.locator(".side-bar-panel img").first).to_have_js_property("naturalWidth", 48)


async def test_a_running_job_is_cancelled(ui: Any) -> None:
    (ui.server.base / "input/blue.png").write_bytes(picture("#204060"))
    ui.server.gate.unlink(missing_ok=True)
    await ui.open_workflow(workflow("blue.png", prefix="cancelled", gated=True))
    await ui.run()
    await ui.until("document.title.includes('[50%] GatedSteps')")
    await ui.page.get_by_label("Cancel current run").click()
    await expect(ui.page.get_by_test_id("queue-overlay-toggle")).to_contain_text("0 active")
    assert saved(ui, "cancelled") == []


async def test_a_workflow_is_saved_loaded_and_deleted(ui: Any) -> None:
    (ui.server.base / "input/blue.png").write_bytes(picture("#204060"))
    file = ui.server.base / "user/default/workflows/mine.json"
    await ui.open_workflow(workflow("blue.png", prefix="mine"))
    await ui.page.locator("#graph-canvas").click(position={"x": 1000, "y": 800})
    await ui.page.keyboard.press("Control+s")
    await ui.dialog().get_by_role("textbox").fill("mine")
    async with ui.page.expect_response("**/api/userdata/workflows%2Fmine.json*"):
        await ui.dialog().get_by_role("button", name="Confirm").click()
    tab = ui.page.get_by_test_id("workflow-tab").filter(has_text="mine")
    await expect(tab).to_be_visible()
    assert len(json.loads(file.read_text())["nodes"]) == 5

    await ui.new_workflow()
    await tab.hover()
    await tab.get_by_label("Close").click()
    ui.expected.append("workflows%2F.index.json")  # the favourites, of which a new user has none
    await ui.page.get_by_test_id("workflows-tab-button").click()
    entry = ui.page.get_by_test_id("workflows-sidebar").get_by_role("treeitem", name="mine")
    await entry.click()
    await ui.until("app.graph.nodes.length === 5")

    await entry.click(button="right")
    await ui.page.get_by_role("menuitem", name="Delete").click()
    await ui.dialog().get_by_role("button", name="Delete").click()
    await expect(entry).to_have_count(0)
    assert not file.exists()


async def test_a_changed_setting_outlasts_a_reload(ui: Any) -> None:
    async def switch() -> Any:
        await ui.page.get_by_test_id("side-toolbar").get_by_label("Settings").click()
        await ui.dialog().get_by_placeholder("Search").fill("snap to grid")
        return ui.dialog().locator('[data-setting-id="pysssss.SnapToGrid"]').get_by_role("switch")

    toggle = await switch()
    await expect(toggle).not_to_be_checked()
    async with ui.page.expect_request_finished(
        lambda sent: sent.url.endswith("/settings/pysssss.SnapToGrid")
    ):
        await toggle.click()
    await ui.open()
    await expect(await switch()).to_be_checked()


async def test_the_logs_panel_shows_the_log_and_goes_on(ui: Any) -> None:
    await ui.page.get_by_label("Toggle Bottom Panel").click()
    terminal = ui.page.get_by_test_id("terminal-root")
    await expect(terminal).to_contain_text("To see the GUI go to: http://127.0.0.1")
    ui.server.gate.unlink(missing_ok=True)
    (ui.server.base / "input/blue.png").write_bytes(picture("#204060"))
    await ui.open_workflow(workflow("blue.png", prefix="logged", gated=True))
    before = (await terminal.inner_text()).count("half of the steps are done")
    await ui.run()
    await ui.until(
        "(n) => document.querySelector('[data-testid=terminal-root]').innerText"
        ".split('half of the steps are done').length - 1 > n",
        before,
    )
    ui.server.gate.touch()
    await ui.until(
        "document.querySelector('[data-testid=terminal-root]').innerText.includes('Prompt executed in')"
    )


async def test_a_saved_picture_gives_its_workflow_back(ui: Any) -> None:
    (ui.server.base / "input/blue.png").write_bytes(picture("#204060"))
    await ui.open_workflow(workflow("blue.png", prefix="origin"))
    await ui.run()
    await ui.until("app.graph.nodes.some((node) => node.type === 'SaveImage' && node.imgs?.[0].complete)")
    kinds = await ui.nodes()
    await ui.new_workflow()
    await ui.drop(saved(ui, "origin")[0].read_bytes(), "origin_00001_.png", "image/png")
    await ui.until("app.graph.nodes.length === 5")
    assert await ui.nodes() == kinds
    assert (
        await ui.page.evaluate("app.graph.nodes.find((n) => n.type === 'SaveImage').widgets[0].value")
        == "origin"
    )


async def test_help_and_about_lead_to_comfyk(ui: Any) -> None:
    async def opens(action: str) -> str:
        async with ui.page.context.expect_page() as opened:
            await ui.page.evaluate(action)
        page = await opened.value
        url = page.url
        await page.close()
        return url

    issues = "https://github.com/Comfy-Org/ComfyUI/issues"
    found = await opens(f"window.open('{issues}?q=' + encodeURIComponent('it failed is:issue'), '_blank')")
    assert found == f"{ui.server.url}/help?q=it%20failed%20is%3Aissue"
    assert (
        await opens("void app.extensionManager.command.execute('Comfy.ContactSupport')")
        == f"{ui.server.url}/help"
    )
    await ui.page.evaluate("void app.extensionManager.command.execute('Comfy.Help.AboutComfyUI')")
    badge = ui.dialog().get_by_test_id("about-panel").get_by_text(f"comfyk {comfyk.__version__}")
    await expect(badge).to_be_visible()
    async with ui.page.context.expect_page() as opened:
        await badge.click()
    page = await opened.value
    await expect(page.get_by_role("heading", level=1)).to_have_text(f"comfyk {comfyk.__version__}")
    await page.close()
