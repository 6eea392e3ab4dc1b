"""Other options for some origins."""

import asyncio

import httpx
from server import serve

from httpx_agent import Agent, AgentTransport


async def main(fast: str, fragile: str) -> None:
    agent = Agent(max_sockets=20, per_origin={fragile: {"max_sockets": 2, "scheduling": "fifo"}})
    async with agent, httpx.AsyncClient(transport=AgentTransport(agent=agent)) as client:
        await asyncio.gather(*(client.get(f"{url}/wait/0.05") for url in (fast, fragile) for _ in range(6)))
        free = agent.status().free_sockets
        print("sockets of the first origin:", free[fast])
        print("sockets of the second origin:", free[fragile])


with serve() as fast, serve() as fragile:
    asyncio.run(main(fast, fragile))
