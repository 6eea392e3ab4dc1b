"""Calls to the tools of an MCP server, over the sockets of an agent."""

# --8<-- [start:program]
import asyncio

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from httpx_agent.httpx2 import AgentTransport
from mcp_server import serve


async def main(url: str) -> None:
    transport = AgentTransport(max_sockets=5)
    async with httpx2.AsyncClient(transport=transport, timeout=60) as http_client:
        streams = streamable_http_client(url, http_client=http_client)
        async with Client(streams) as client:
            sums = await asyncio.gather(
                *(client.call_tool("add", {"a": n, "b": 1}) for n in range(20))
            )
        print([result.structured_content["result"] for result in sums])
        print("never more than 5 sockets:", len(transport.agent.sockets()) <= 5)


with serve() as url:
    asyncio.run(main(url))
# --8<-- [end:program]
