"""Pictures over the WebSocket, from a real server."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import aiohttp
import numpy as np
import pytest
from PIL import Image

from ....conftest import Server

COLOUR = 0x40C080


@pytest.mark.parametrize("detailed", [False, True])
async def test_each_picture_is_sent_each_time(
    server: Server, session: aiohttp.ClientSession, detailed: bool
) -> None:
    """As ComfyUI's own example reads them: binary, between `executing` of the node and of none."""
    await server.start("--cpu")
    prompt: dict[str, Any] = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 16, "height": 8, "batch_size": 3, "color": COLOUR},
        },
        "2": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
    }
    async with session.ws_connect(f"{server.url}/ws?clientId=me") as socket:
        await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": detailed}})
        for _ in range(2):
            async with session.post(
                f"{server.url}/prompt", json={"prompt": prompt, "client_id": "me"}
            ) as answer:
                assert answer.status == 200, await answer.text()
            node, sent = None, []
            while True:
                message = await socket.receive(60)
                if message.type is aiohttp.WSMsgType.BINARY:
                    assert node == "2"
                    sent.append(message.data)
                    continue
                event = json.loads(message.data)
                assert event["type"] != "execution_error", event
                if event["type"] == "executing":
                    node = event["data"]["node"]
                    if node is None:
                        break
            assert len(sent) == 3
            for data in sent:
                kind, second = struct.unpack(">II", data[:8])
                assert kind == (4 if detailed else 1)
                assert detailed or second == 2
                with Image.open(io.BytesIO(data[8 + (second if detailed else 0) :])) as picture:
                    assert picture.format == "PNG"
                    assert np.asarray(picture).tolist() == [[[0x40, 0xC0, 0x80]] * 16] * 8
