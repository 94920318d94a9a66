"""A program of its own: so many WebSocket clients, half of which read and half of which never do."""

from __future__ import annotations

import asyncio
import sys

REQUEST = (
    "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def client(host: str, port: int, reads: bool) -> None:
    reader, writer = await asyncio.open_connection(host, port, limit=1024)
    writer.write(REQUEST.encode())
    await reader.readuntil(b"\r\n\r\n")
    if reads:
        kept.append(asyncio.create_task(drain(reader, writer)))
    else:
        kept.append(writer)


async def drain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(1 << 20):
        pass
    writer.close()


async def main(host: str, port: int, count: int) -> None:
    for number in range(count):
        await client(host, port, reads=number % 2 == 0)
    print("connected", flush=True)
    await asyncio.sleep(600)


kept: list[object] = []

if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
