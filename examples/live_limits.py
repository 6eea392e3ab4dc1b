"""Changing a limit while requests wait."""

import asyncio

import httpx
from server import serve

from httpx_agent import Agent, AgentTransport


async def main(url: str) -> None:
    agent = Agent(max_sockets=1)
    async with agent, httpx.AsyncClient(transport=AgentTransport(agent=agent)) as client:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(5):
                tasks.create_task(client.get(f"{url}/wait/0.1"))
            await asyncio.sleep(0.05)
            print(f"max_sockets={agent.max_sockets}:", agent)
            agent.max_sockets = 4
            print(f"max_sockets={agent.max_sockets}:", agent)
        try:
            agent.free_socket_timeout = 5
        except AttributeError as error:
            print(error)


with serve() as url:
    asyncio.run(main(url))
