"""An MCP server on loopback, from the SDK itself: `with serve() as url:`."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import uvicorn
from mcp.server.mcpserver import MCPServer


class QuietServer(uvicorn.Server):
    """A server that runs in a thread and does not handle signals."""

    def __init__(self, listener: socket.socket, *, json_response: bool) -> None:
        app = tools().streamable_http_app(json_response=json_response)
        config = uvicorn.Config(app, log_level="critical", ws="none")
        super().__init__(config)
        self.thread = Thread(target=self.run, kwargs={"sockets": [listener]})


def tools() -> MCPServer:
    """Return a server with one tool."""
    server = MCPServer("sums", log_level="CRITICAL")

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    server.add_tool(add)
    return server


@contextmanager
def serve(*, json_response: bool = False) -> Iterator[str]:
    """Run the server in a thread; it responds with server-sent events or with JSON."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = QuietServer(listener, json_response=json_response)
        server.thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        finally:
            server.should_exit = True
            server.thread.join()
