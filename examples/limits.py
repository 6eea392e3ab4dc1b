"""A limit per origin: six requests share two sockets."""

import asyncio

import httpx

from httpx_agent import AgentTransport
from server import serve


async def main(url: str) -> None:
    transport = AgentTransport(max_sockets=2)
    async with httpx.AsyncClient(transport=transport) as client:
        responses = await asyncio.gather(
            *(client.get(f"{url}/wait/0.05") for _ in range(6))
        )
    for number, response in enumerate(responses):
        info = response.extensions["agent"]
        waited = "waited" if info.queued_for > 0.01 else "sent at once"
        print(f"request {number}: {waited}, reused: {info.reused}")


with serve() as url:
    asyncio.run(main(url))
