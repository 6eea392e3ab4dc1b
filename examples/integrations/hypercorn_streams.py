"""Fifty concurrent requests to hypercorn over HTTP/2 share one socket."""

# --8<-- [start:program]
import asyncio
import socket
from typing import Any

import httpx
from hypercorn.asyncio import serve
from hypercorn.config import Config

from httpx_agent import AgentTransport


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Respond to a request with its path."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


async def ask(url: str) -> None:
    """Send the requests; without TLS, the client has to assume HTTP/2."""
    transport = AgentTransport(http1=False, http2=True)
    async with httpx.AsyncClient(transport=transport, timeout=60) as client:
        responses = await asyncio.gather(*(client.get(f"{url}/{n}") for n in range(50)))
        assert [each.text for each in responses] == [f"/{n}" for n in range(50)]
        print(len(responses), "responses over", responses[0].http_version)
        print(transport.agent)


async def main() -> None:
    """Run the server and its client in one loop."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = None
    done = asyncio.Event()
    server = asyncio.create_task(serve(app, config, shutdown_trigger=done.wait))
    await ask(url)
    done.set()
    await server


asyncio.run(main())
# --8<-- [end:program]
