"""Which free socket is used next."""

import asyncio

import httpx

from httpx_agent import AgentTransport
from server import serve


async def main(url: str) -> None:
    for scheduling in ("lifo", "fifo"):
        transport = AgentTransport(scheduling=scheduling)
        async with httpx.AsyncClient(transport=transport) as client:
            # Three sockets become free in the order 0, 1, 2.
            await asyncio.gather(
                *(client.get(f"{url}/wait/{seconds}") for seconds in (0, 0.1, 0.2))
            )
            used = []
            for _ in range(4):
                response = await client.get(url)
                used.append(response.extensions["agent"].socket_id)
            print(scheduling, used)


with serve() as url:
    asyncio.run(main(url))
