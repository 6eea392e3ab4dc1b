"""The same transport for httpx2."""

# --8<-- [start:program]
import asyncio

import httpx2

from httpx_agent.httpx2 import Agent, AgentTransport
from server import serve


async def fetch(agent: Agent, url: str) -> int:
    async with httpx2.AsyncClient(transport=AgentTransport(agent=agent)) as client:
        return (await client.get(url)).status_code


with serve() as url, Agent(max_sockets=10) as agent:
    with httpx2.Client(transport=AgentTransport(agent=agent)) as client:
        for _ in range(2):
            response = client.get(url)
            print(response.status_code, response.extensions["agent"].reused)
    print(asyncio.run(fetch(agent, url)))
# --8<-- [end:program]
