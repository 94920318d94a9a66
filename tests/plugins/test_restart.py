"""A route that restarts the server in place."""

from __future__ import annotations

import asyncio

import aiohttp


async def answers(session: aiohttp.ClientSession, url: str) -> None:
    """Wait until the server is there again: nothing but asking tells."""
    while True:
        try:
            async with session.get(url + "/prompt") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            await asyncio.sleep(0.02)


async def test_the_server_restarts_in_place_with_its_queue(
    make_server, installed, session, prompt, unused_tcp_port, receive
):
    server = make_server(PYTHONPATH=str(installed("restart")))
    await server.start("--port", str(unused_tcp_port), "--set", "plugins.disabled=core-nodes,frontend")
    url, pid = server.url, server.pid
    ids = []
    async with session.ws_connect(url + "/ws?clientId=me") as socket:
        for text, seconds in (("runs", 2), ("waits", 0), ("waits too", 0)):
            body = {"prompt": prompt(text, seconds=seconds), "client_id": "me"}
            async with session.post(url + "/prompt", json=body) as answer:
                ids.append((await answer.json())["prompt_id"])
        while (await socket.receive_json(timeout=60))["type"] != "executing":
            pass
        async with session.post(url + "/restart", json={"reason": "a test"}) as answer:
            assert answer.status == 202 and await answer.json() == {"pid": pid}
        while (message := await socket.receive(timeout=60)).type is not aiohttp.WSMsgType.CLOSE:
            assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        assert message.data == aiohttp.WSCloseCode.SERVICE_RESTART
    await asyncio.wait_for(answers(session, url), 60)
    assert server.pid == pid and any("restarting: a test" in line for line in server.log)
    async with session.ws_connect(url + "/ws?clientId=me") as socket:
        while True:
            async with session.get(url + "/history") as answer:
                history = await answer.json()
            if len(history) == 3:
                break
            await receive(socket)
    assert list(history) == ids, "the one that ran runs again, before those that waited"
    assert all(entry["status"]["status_str"] == "success" for entry in history.values())
    assert await server.stop() == 0


async def test_what_the_route_takes_is_documented_and_checked(make_server, installed, session):
    server = make_server(PYTHONPATH=str(installed("restart")))
    await server.start("--set", "plugins.disabled=core-nodes,frontend")
    async with session.post(server.url + "/restart", json={"reason": 5}) as answer:
        assert answer.status == 400 and "reason" in await answer.text()
    async with session.get(server.url + "/openapi.json") as answer:
        document = await answer.json()
    assert document["paths"]["/api/restart"]["post"]["operationId"] == "restartServer"
