"""A hundred requests at once, over ten sockets."""

# --8<-- [start:use]
import asyncio

import httpx

from httpx_agent import AgentTransport


async def main(url: str) -> None:
    transport = AgentTransport(max_sockets=10)
    async with httpx.AsyncClient(transport=transport) as client:
        responses = await asyncio.gather(*(client.get(url) for _ in range(100)))
        used = {response.extensions["agent"].socket_id for response in responses}
        print(f"{len(responses)} responses, {len(used)} sockets")
        # --8<-- [end:use]


if __name__ == "__main__":
    from server import serve

    with serve() as url:
        asyncio.run(main(url))
