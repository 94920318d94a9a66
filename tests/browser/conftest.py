"""The web UI in a real Chromium, over a real server process.

Without a Chromium the tests are skipped, or fail if COMFYK_REQUIRE_BROWSER is set, as in CI. What the page looked like
when a test failed is kept in `failures/`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Error, Locator, Page, async_playwright, expect
from playwright.async_api import TimeoutError as PlaywrightTimeout

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# As root there is no sandbox, in a container no GPU, and in CI no way to the update servers.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
FAILURES = Path(__file__).parent / "failures"
ABSENT = (
    "/user.css",
    "/api/userdata/user.css",
    "/api/userdata/comfy.templates.json",
)
"""What a new user does not have, and the UI asks for all the same."""

GATED = """
import time
from pathlib import Path

import comfyk

GATE = Path(__file__).with_name("gate")


class GatedSteps:
    '''Reports half of its progress, and waits until the test opens the gate.'''

    INPUT_TYPES = classmethod(lambda cls: {"required": {"image": ("IMAGE",)}})
    IS_CHANGED = classmethod(lambda cls, **_: float("nan"))
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, image):
        comfyk.progress(5, 10)
        print("half of the steps are done")
        while not GATE.exists():
            comfyk.check_interrupted()
            time.sleep(0.02)
        return (image,)


NODE_CLASS_MAPPINGS = {"GatedSteps": GatedSteps}
"""

EXTENSION = """
import { app } from "../../scripts/app.js";

app.registerExtension({
    name: "test.extension",
    setup() { window.nodesSeenByThePack = Object.keys(LiteGraph.registered_node_types).length; },
});
"""

DROP = """([data, name, type, x, y]) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name, { type }));
    const target = document.elementFromPoint(x, y);
    for (const event of ["dragenter", "dragover", "drop"])
        target.dispatchEvent(new DragEvent(event, {
            bubbles: true, cancelable: true, composed: true, clientX: x, clientY: y, dataTransfer,
        }));
}"""


def chromium() -> str | None:
    """The browser to test with."""
    return os.environ.get("COMFYK_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Server:
    """A running server and its folders."""

    base: Path
    url: str

    @property
    def gate(self) -> Path:
        """While this file is missing, GatedSteps waits."""
        return self.base / "custom_nodes" / "gate"

    def write_settings(self, **settings: Any) -> None:
        """Set the user's settings, in place of those that are set."""
        (self.base / "user/default").mkdir(parents=True, exist_ok=True)
        (self.base / "user/default/comfy.settings.json").write_text(json.dumps(settings))


@asynccontextmanager
async def serving(base: Path) -> AsyncIterator[Server]:
    """`comfyk start` on a base folder."""
    (base / "custom_nodes").mkdir(parents=True)
    (base / "custom_nodes/gated.py").write_text(GATED)
    (base / "custom_nodes/extended/web").mkdir(parents=True)
    (base / "custom_nodes/extended/__init__.py").write_text(
        "NODE_CLASS_MAPPINGS = {}\nWEB_DIRECTORY = './web'\n"
    )
    (base / "custom_nodes/extended/web/extension.js").write_text(EXTENSION)
    env = {key: value for key, value in os.environ.items() if not key.startswith("COMFYK_")}
    log = base / "log.txt"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "comfyk", "start", "--base-directory", str(base), "--port", "0",
            env=env, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            while not (found := re.search(r"https?://\S+:\d+", log.read_text())):
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
        yield Server(base, found[0])
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 30)


@dataclass
class UI:
    """The open page, and what went wrong in it."""

    page: Page
    server: Server
    problems: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    """Parts of addresses that may fail."""
    ready: bool = False
    """Whether the page is open, and nothing has failed in it."""

    async def watch(self) -> None:
        """Note every page error and every request to the server that failed; answer for the world outside."""

        async def outside(route: Any) -> None:
            await route.fulfill(status=200, content_type="application/json", body="[]")

        await self.page.route(lambda url: not url.startswith(self.server.url), outside)
        self.page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        self.page.on("response", lambda response: self._check(response.status, response.url))
        self.page.on("requestfailed", lambda request: self._check(0, request.url, request.failure))

    def _check(self, status: int, url: str, failure: str | None = None) -> None:
        ours = url.startswith(self.server.url) and not url.endswith(ABSENT)
        if ours and not 200 <= status < 400 and not any(part in url for part in self.expected):
            self.problems.append(f"{url}: {failure or status}")

    async def open(self) -> None:
        """Load the page, and wait until the UI has taken the place of its splash screen."""
        await self.page.goto("about:blank")
        # What the page before it was still asking for has ended with that page.
        self.problems[:] = [problem for problem in self.problems if not problem.endswith("net::ERR_ABORTED")]
        await self.page.goto(self.server.url, timeout=60_000)
        loaded = "window.app?.graph && !document.querySelector('#splash-loader')"
        await self.page.wait_for_function(loaded, timeout=60_000)
        await expect(self.page.get_by_test_id("side-toolbar")).to_be_visible()

    async def nodes(self) -> list[str]:
        """The types of the nodes on the canvas."""
        return await self.page.evaluate("app.graph.nodes.map((node) => node.type)")

    async def until(self, condition: str, argument: Any = None) -> None:
        """Wait until a JavaScript expression is true."""
        await self.page.wait_for_function(condition, arg=argument)

    async def new_workflow(self) -> None:
        """An empty canvas."""
        await self.page.get_by_label("Create a new blank workflow").click()
        await self.page.mouse.move(700, 600)  # what the pointer rests on grows a tooltip
        await self.until("app.graph.nodes.length === 0")

    async def open_search(self) -> None:
        """Double-click on the canvas until the search for nodes opens: right after another click it may not."""
        search = self.page.get_by_placeholder("Add a node")
        for _ in range(5):
            await self.page.locator("#graph-canvas").dblclick(position={"x": 800, "y": 150})
            try:
                await search.wait_for(timeout=3000)
            except PlaywrightTimeout:
                continue
            return
        raise AssertionError("the search for nodes does not open")

    async def close_panels(self) -> None:
        """Close what a test has opened beside the canvas."""
        closers = (
            self.dialog().get_by_label("Close dialog"),
            self.page.get_by_test_id("sidebar-close-button"),
            self.page.locator(".bottom-panel").get_by_label("Close"),
        )
        for closer in closers:
            if await closer.first.is_visible():
                await closer.first.click()
        if await self.page.get_by_test_id("queue-progress-overlay").is_visible():
            await self.page.get_by_test_id("queue-overlay-toggle").click()

    async def drop(self, data: bytes, name: str, type: str, at: tuple[int, int] = (700, 450)) -> None:
        """Drag a file in from the desktop."""
        await self.page.evaluate(DROP, [base64.b64encode(data).decode(), name, type, *at])

    async def open_workflow(self, workflow: dict[str, Any], name: str = "dropped.json") -> None:
        """Drop a workflow file on the canvas."""
        await self.drop(json.dumps(workflow).encode(), name, "application/json")
        await self.until("(n) => app.graph.nodes.length === n", len(workflow["nodes"]))

    async def run(self) -> None:
        """Press the button."""
        await self.page.get_by_test_id("queue-button").click()

    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")


@pytest.fixture(scope="module")
def chromium_path() -> str:
    """The browser; without one, the tests of this folder are skipped, where that is allowed."""
    path = chromium()
    if path is None:
        message = (
            "The web UI is not tested: no Chromium was found. "
            "Install one (apt-get install chromium), or name it in COMFYK_CHROMIUM."
        )
        if os.environ.get("COMFYK_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(chromium_path: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path, args=FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def context(browser: Browser) -> BrowserContext:
    """One for all tests, so that the UI's files come from its cache after the first."""
    context = await browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(30_000)
    expect.set_options(timeout=30_000)
    return context


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(chromium_path: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with serving(tmp_path_factory.mktemp("browser") / "base") as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def first_ui(context: BrowserContext, server: Server) -> UI:
    """A page that is not open yet, of a user without settings."""
    ui = UI(await context.new_page(), server)
    await ui.watch()
    return ui


@pytest_asyncio.fixture(loop_scope="module")
async def fresh_ui(first_ui: UI, request: pytest.FixtureRequest) -> AsyncIterator[UI]:
    """`first_ui`; when the test ends, nothing may have gone wrong in it."""
    async with watched(first_ui, request.node):
        yield first_ui


@pytest_asyncio.fixture(loop_scope="module")
async def ui(first_ui: UI, request: pytest.FixtureRequest) -> AsyncIterator[UI]:
    """The UI with an empty canvas, as a user sees it who has been here before.

    Tests share one page, since loading it takes seconds; after a failure it is loaded anew.
    """
    ui = first_ui
    async with watched(ui, request.node):
        if not ui.ready:
            ui.server.write_settings(**{"Comfy.TutorialCompleted": True})
            ui.server.gate.touch()
            await ui.open()
            ui.ready = True
        await ui.new_workflow()
        yield ui
        if failed(request.node):
            ui.ready = False
        else:
            await ui.close_panels()


@asynccontextmanager
async def watched(ui: UI, test: pytest.Item) -> AsyncIterator[None]:
    """Fail when the page had problems, and keep what it looked like then, or when the test failed."""
    ui.problems.clear()
    ui.expected.clear()
    try:
        yield
        assert failed(test) or ui.problems == []
    except BaseException:
        ui.ready = False
        await keep_screenshot(ui, test.name)
        raise
    if failed(test):
        await keep_screenshot(ui, test.name)


def failed(test: pytest.Item) -> bool:
    """Whether the test itself did."""
    return test.stash.get(FAILED, False)


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


async def keep_screenshot(ui: UI, name: str) -> None:
    FAILURES.mkdir(exist_ok=True)
    path = FAILURES / f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)}.png"
    try:
        await ui.page.screenshot(path=path, timeout=5000)
        print(f"the page is shown in {path}")
    except Error as error:
        print(f"no screenshot: {error}")
    print("problems of the page:", *ui.problems, sep="\n  ")
    print(
        "log of the server:", ui.server.base.joinpath("log.txt").read_text(errors="replace")[-3000:], sep="\n"
    )
