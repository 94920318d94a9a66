"""Previews of a sampler that runs in a job."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any

import pytest
from comfyk.app import App
from comfyk.events import Event, Preview
from comfyk.jobs.model import JobStatus
from PIL import Image


@pytest.fixture
def previews(studio: App, workflow: Callable[..., dict[str, Any]]) -> Callable[..., list[Preview]]:
    """Run txt2img in 3 steps, and give the previews that were sent."""

    async def run(extra_data: dict[str, Any]) -> list[Preview]:
        seen: list[Preview] = []

        def listen(event: Event) -> None:
            if isinstance(event, Preview):
                seen.append(event)

        async with studio:
            studio.events.subscribe(listen)
            submission = await studio.jobs.submit(workflow("txt2img"), extra_data=extra_data)
            outcome = await studio.jobs.wait(submission.job.id)
            assert outcome.status is JobStatus.COMPLETED, outcome.error
        return seen

    return lambda **extra_data: asyncio.run(run(extra_data))


def test_a_prompt_may_ask_for_previews(studio: App, previews: Callable[..., list[Preview]]) -> None:
    seen = previews(preview_method="latent2rgb", client_id="me")
    assert {preview.client_id for preview in seen} == {"me"}
    assert len(seen) == 3
    for preview in seen:
        image = Image.open(io.BytesIO(preview.image.data))
        assert (image.format, max(image.size)) == (
            preview.image.format,
            studio.settings.section("previews").size,
        )


@pytest.mark.parametrize("asked", [{}, {"preview_method": "default"}, {"preview_method": ["taesd"]}])
def test_otherwise_the_settings_decide(previews: Callable[..., list[Preview]], asked: dict[str, Any]) -> None:
    assert previews(**asked) == []
