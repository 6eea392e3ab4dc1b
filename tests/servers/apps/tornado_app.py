"""The application for Tornado."""

from __future__ import annotations

import asyncio
import signal

from tornado import web
from tornado.httpserver import HTTPServer

from tests.servers.apps import echo


@web.stream_request_body
class Handler(web.RequestHandler):
    """Answers as all these applications do."""

    SUPPORTED_METHODS = ("GET", "POST", "PUT", "DELETE")

    def prepare(self) -> None:
        """Refuse before the body comes."""
        self.size = 0
        if echo.is_refused(self.request.uri or ""):
            self.set_status(413)
            self.finish(echo.REFUSAL)

    def data_received(self, chunk: bytes) -> None:
        """Count the body."""
        self.size += len(chunk)

    async def get(self) -> None:
        """Answer."""
        target = self.request.uri or ""
        if echo.is_slow(target):
            await asyncio.sleep(echo.SLOW)
        self.finish(echo.answer(self.request.method or "", target, self.size))

    post = put = delete = get


async def main() -> None:
    """Serve until SIGTERM; then as its documentation says, `stop` and `close_all_connections`."""
    arguments = echo.arguments()
    server = HTTPServer(
        web.Application([(r"/.*", Handler)], log_function=lambda handler: None),
        idle_connection_timeout=arguments.idle,
        max_body_size=arguments.limit,
        ssl_options=echo.context(arguments),
    )
    server.listen(arguments.port, "127.0.0.1")
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    server.stop()
    await server.close_all_connections()


if __name__ == "__main__":
    asyncio.run(main())
