"""Move a hundred megabytes in a separate process, and print how much its resident memory grew.

Called with: the name of a world; `down`, `up`, or `unread`, `unheard` for those that stall; the URL of a server; the
number of bytes.
"""

from __future__ import annotations

import gc
import json
import socket
import sys
import threading
from collections.abc import Iterator

import httpx

from httpx_agent import AgentTransport
from tests.support.worlds import H11_WORLDS, WORLDS, World

BLOCK = bytes(range(256)) * 256


def resident() -> int:
    """What this process has in memory, in bytes."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


async def stall(world: World, direction: str, total: int) -> None:
    """Begin a large transfer that one end does not take part in, and look when nothing moves any more."""
    sent = 0
    stalled = threading.Event()
    done = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    block = bytes(len(BLOCK))

    def serve() -> None:
        nonlocal sent
        with listener.accept()[0] as sock:
            sock.recv(65536)
            if direction == "unread":
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
                sock.settimeout(0.5)
                try:
                    while sent < total:
                        sent += sock.send(block)
                except TimeoutError:
                    stalled.set()
            done.wait(30)

    def parts() -> Iterator[bytes]:
        nonlocal sent
        while sent < total:
            sent += len(block)
            yield block

    server = threading.Thread(target=serve)
    server.start()
    try:
        timeout = httpx.Timeout(20.0, write=0.5)
        async with world.client(transport=AgentTransport(verify=False), timeout=timeout) as client:
            before = resident()
            if direction == "unread":
                async with client.stream("GET", url):
                    await world.until(stalled.is_set)
                    after = resident()
            else:
                try:
                    await client.post(url, content=world.body(parts()))
                except httpx.WriteTimeout:
                    after = resident()
    finally:
        done.set()
        server.join()
        listener.close()
    print(json.dumps({"moved": sent, "grew": after - before}))


async def main(world: World, direction: str, url: str, total: int) -> None:
    """Warm up with a small one, then measure along the large one."""
    highest = 0

    def look() -> None:
        nonlocal highest
        highest = max(highest, resident())

    def parts(count: int) -> Iterator[bytes]:
        for number in range(count):
            if number % 16 == 0:
                look()
            yield BLOCK

    async def download(size: int) -> int:
        received = 0
        if world.is_sync:  # without a change of thread for each part
            with client.sync.stream("GET", f"{url}/stream/{size}") as response:
                for number, part in enumerate(response.iter_bytes()):
                    received += len(part)
                    if number % 16 == 0:
                        look()
            return received
        async with client.stream("GET", f"{url}/stream/{size}") as response:
            number = 0
            async for part in response.aiter_bytes():
                received += len(part)
                number += 1
                if number % 16 == 0:
                    look()
        return received

    async def upload(size: int) -> int:
        response = await client.post(f"{url}/sink", content=world.body(parts(size // len(BLOCK))))
        return int(response.json()["length"])

    if direction in ("unread", "unheard"):
        await stall(world, direction, total)
        return
    move = download if direction == "down" else upload
    async with world.client(transport=AgentTransport(verify=False), timeout=httpx.Timeout(20.0)) as client:
        await move(20 * len(BLOCK))
        gc.collect()
        before = highest = resident()
        moved = await move(total)
    print(json.dumps({"moved": moved, "grew": highest - before}))


if __name__ == "__main__":
    name, direction, url, total = sys.argv[1:]
    found = next(world for world in WORLDS + H11_WORLDS if world.name == name)
    found.run(main, found, direction, url, int(total))
