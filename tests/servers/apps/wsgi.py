"""The application for gunicorn and waitress; run as a program, it is served by cheroot."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from tests.servers.apps import echo


def app(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]) -> Iterable[bytes]:
    """Answer as all these applications do."""
    query = environ.get("QUERY_STRING", "")
    target = environ["PATH_INFO"] + (f"?{query}" if query else "")
    if echo.is_refused(target):
        status, body = "413 Content Too Large", echo.REFUSAL
    else:
        size = _read(environ)
        if echo.is_slow(target):
            time.sleep(echo.SLOW)
        status, body = "200 OK", echo.answer(environ["REQUEST_METHOD"], target, size)
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _read(environ: dict[str, Any]) -> int:
    chunked = "HTTP_TRANSFER_ENCODING" in environ
    size, left = 0, int(environ.get("CONTENT_LENGTH") or 0)
    while (chunked or size < left) and (data := environ["wsgi.input"].read(65536 if chunked else left - size)):
        size += len(data)
    return size


def main() -> None:
    """Serve by cheroot until SIGTERM."""
    from cheroot.ssl.builtin import BuiltinSSLAdapter
    from cheroot.wsgi import Server

    arguments = echo.arguments()
    server = Server(("127.0.0.1", arguments.port), app, timeout=arguments.idle)
    server.max_request_body_size = arguments.limit
    if arguments.certificate is not None:
        server.ssl_adapter = BuiltinSSLAdapter(arguments.certificate, arguments.key)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.stop).start())
    server.start()


if __name__ == "__main__":
    main()
