"""Where the web UI's help leads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfyk
import pytest


async def links(client: Any) -> dict[str, Any]:
    async with client.get("/system_stats") as response:
        system = (await response.json())["system"]
    assert system["comfyk_version"] == comfyk.__version__
    return system["comfyk_links"]


async def test_it_is_a_page_of_this_server(client: Any) -> None:
    assert (await links(client))["help"] == "/help"
    async with client.get("/help") as response:
        assert response.content_type == "text/html"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        page = await response.text()
    assert f"comfyk {comfyk.__version__}" in page
    assert "comfyk doctor" in page
    async with client.get("/extensions") as response:
        assert "/extensions/comfyk/comfyk.js" in await response.json()


async def test_what_was_searched_for_is_shown_as_text(client: Any) -> None:
    async with client.get(
        "/help", params={"q": "<script>@LINKS@</script> failed is:issue" + "x" * 4000}
    ) as response:
        page = await response.text()
    assert "<pre>&lt;script&gt;@LINKS@&lt;/script&gt; failed" in page
    assert "<script" not in page
    assert len(page) < 6000


async def test_it_may_lead_elsewhere(start: Callable[..., Any]) -> None:
    client = await start(
        frontend__help_url="https://help.example.org/comfyk",
        frontend__issues_url="https://example.org/issues",
    )
    told = await links(client)
    assert told["help"] == "https://help.example.org/comfyk"
    assert told["issues"] == "https://example.org/issues"
    async with client.get("/help") as response:
        assert 'href="https://example.org/issues"' in await response.text()


@pytest.mark.parametrize("url", ["javascript:alert(1)", "/relative", "ftp://example.org/"])
async def test_only_to_web_pages(start: Callable[..., Any], url: str) -> None:
    with pytest.raises(Exception, match=r"frontend\.help_url"):
        await start(frontend__help_url=url)
