"""The application for Twisted; SIGTERM stops its reactor, as it does that of `twist web`."""

from __future__ import annotations

from twisted.internet import endpoints, reactor, task
from twisted.web import resource, server

from tests.servers.apps import echo


class Echo(resource.Resource):
    """Answers as all these applications do; it is called when the body is there."""

    isLeaf = True

    def render(self, request: server.Request) -> bytes | int:
        """Answer, perhaps later."""
        target = request.uri.decode()
        request.content.seek(0, 2)
        size = request.content.tell()
        if echo.is_refused(target):
            request.setResponseCode(413)
            return echo.REFUSAL
        if echo.is_slow(target):
            task.deferLater(reactor, echo.SLOW, self.finish, request, target, size).addErrback(lambda _: None)
            return server.NOT_DONE_YET
        return echo.answer(request.method.decode(), target, size)

    def finish(self, request: server.Request, target: str, size: int) -> None:
        """Answer now."""
        request.write(echo.answer(request.method.decode(), target, size))
        request.finish()


def main() -> None:
    """Serve until SIGTERM."""
    arguments = echo.arguments()
    where = f"tcp:{arguments.port}:interface=127.0.0.1"
    if arguments.certificate is not None:
        where = f"ssl:{arguments.port}:interface=127.0.0.1:certKey={arguments.certificate}:privateKey={arguments.key}"
    endpoints.serverFromString(reactor, where).listen(server.Site(Echo(), timeout=arguments.idle))
    reactor.run()


if __name__ == "__main__":
    main()
