"""The client of the Model Context Protocol over HTTP, against the SDK's own server."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from httpx_agent.httpx2 import AgentTransport

pytest.importorskip("mcp", reason="needs the extra integrations")

import httpx2
import mcp_server
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize("json_response", [False, True], ids=["events", "json"])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_tools(mode: Any, json_response: bool, loop: str) -> None:
    """Many calls at once, in the protocol of today and in the older one, whose sessions keep a stream open."""
    with mcp_server.serve(json_response=json_response) as url:

        async def main() -> None:
            transport = AgentTransport(max_sockets=5)
            results: list[int] = []

            async def add(a: int) -> None:
                result = await client.call_tool("add", {"a": a, "b": 1})
                results.append(result.structured_content["result"])
                assert len(transport.agent.sockets()) <= 5

            async with httpx2.AsyncClient(transport=transport, timeout=30) as http_client:
                streams = streamable_http_client(url, http_client=http_client)
                async with Client(streams, mode=mode) as client:
                    tools = await client.list_tools()
                    assert [tool.name for tool in tools.tools] == ["add"]
                    async with anyio.create_task_group() as tasks:
                        for a in range(50):
                            tasks.start_soon(add, a)
                    assert sorted(results) == list(range(1, 51))
                    status = transport.agent.status()
                    # The client closes a stream of events after the answer to its call. Whether the end of the body
                    # has arrived by then, so that the socket can go on, is the server's affair.
                    closed_early = status.close_socket_count if mode == "legacy" and not json_response else 0
                    assert status.create_socket_count <= 5 + closed_early
                assert len(transport._pool._requests) == 0
            assert transport.agent.sockets() == ()

        anyio.run(main, backend=loop)
