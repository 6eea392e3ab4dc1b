"""Different options for some origins."""

import asyncio

import httpx

from httpx_agent import AgentTransport
from server import serve


async def main(fast: str, fragile: str) -> None:
    special = {fragile: {"max_sockets": 2, "scheduling": "fifo"}}
    transport = AgentTransport(max_sockets=20, per_origin=special)
    async with httpx.AsyncClient(transport=transport) as client:
        urls = [f"{fast}/wait/0.05", f"{fragile}/wait/0.05"] * 6
        await asyncio.gather(*map(client.get, urls))
        free = transport.agent.status().free_sockets
        print("sockets of the first origin:", free[fast])
        print("sockets of the second origin:", free[fragile])


with serve() as fast, serve() as fragile:
    asyncio.run(main(fast, fragile))
