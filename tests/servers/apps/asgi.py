"""The application for uvicorn, hypercorn and granian."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.servers.apps import echo


async def app(
    scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Answer as all these applications do."""
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
        return
    target = scope["path"] + (f"?{scope['query_string'].decode()}" if scope["query_string"] else "")
    if echo.is_refused(target):
        await _send(send, 413, echo.REFUSAL)
        return
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    if echo.is_slow(target):
        await asyncio.sleep(echo.SLOW)
    await _send(send, 200, echo.answer(scope["method"], target, size))


async def _send(send: Callable[[Any], Awaitable[None]], status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
