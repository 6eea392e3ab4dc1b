"""Changing a limit while requests are waiting."""

import asyncio

import httpx

from httpx_agent import AgentTransport
from server import serve


async def main(url: str) -> None:
    transport = AgentTransport(max_sockets=1)
    agent = transport.agent
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get(url)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(5):
                tasks.create_task(client.get(f"{url}/wait/0.2"))
            await asyncio.sleep(0.1)
            print(f"max_sockets={agent.max_sockets}:", agent)
            agent.max_sockets = 4
            print(f"max_sockets={agent.max_sockets}:", agent)
        try:
            agent.free_socket_timeout = 5
        except AttributeError as error:
            print(error)


with serve() as url:
    asyncio.run(main(url))
