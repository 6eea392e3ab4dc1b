"""One agent for a sync and an async client."""

import asyncio

import httpx

from httpx_agent import Agent, AgentTransport
from server import serve


async def fetch(agent: Agent, url: str) -> int:
    async with httpx.AsyncClient(transport=AgentTransport(agent=agent)) as client:
        response = await client.get(url)
    socket_id: int = response.extensions["agent"].socket_id
    return socket_id


with serve() as url, Agent(max_total_sockets=1) as agent:
    with httpx.Client(transport=AgentTransport(agent=agent)) as client:
        client.get(url)
        print("sync:", [(socket.id, socket.state) for socket in agent.sockets()])
        print("async, served by socket", asyncio.run(fetch(agent, url)))
    print("after the event loop:", agent.sockets())
