"""The application for aiohttp."""

from __future__ import annotations

import asyncio

from aiohttp import web

from tests.servers.apps import echo


async def handle(request: web.Request) -> web.Response:
    """Answer as all these applications do."""
    if echo.is_refused(request.path_qs):
        return web.Response(status=413, body=echo.REFUSAL)
    size = len(await request.read())
    if echo.is_slow(request.path_qs):
        await asyncio.sleep(echo.SLOW)
    return web.Response(body=echo.answer(request.method, request.path_qs, size))


def main() -> None:
    """Serve until SIGTERM."""
    arguments = echo.arguments()
    application = web.Application(client_max_size=arguments.limit)
    application.router.add_route("*", "/{path:.*}", handle)
    web.run_app(
        application,
        host="127.0.0.1",
        port=arguments.port,
        keepalive_timeout=arguments.idle,
        ssl_context=echo.context(arguments),
        access_log=None,
        print=None,
    )


if __name__ == "__main__":
    main()
