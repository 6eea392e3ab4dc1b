"""The pool through which a transport sends its requests, instead of through httpcore's."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol, Self

from .._family import RESPX, register_with_respx
from .._runtime.flows import arun, run
from .bodies import UnreadAsyncBody, UnreadBody
from .exchange import Exchange
from .reference_cycle import ReferenceCycle
from .ticket import Ticket

if TYPE_CHECKING:
    from .dispatcher import Dispatcher


class Agent(Protocol):
    """An agent, as far as a pool needs it."""

    def close(self) -> None:
        """Close every socket; call this from a thread."""

    async def aclose(self) -> None:
        """Close every socket; await this in an event loop."""


class BasePool:
    """Send httpcore's requests over the sockets of an agent, from threads and from event loops.

    Args:
        agent: The agent.
        dispatcher: The agent's dispatcher.
        owns_agent: Whether closing the pool closes the agent.
    """

    def __init__(self, agent: Agent, dispatcher: Dispatcher, *, owns_agent: bool) -> None:
        self.agent = agent
        self.reference_cycle = ReferenceCycle(dispatcher.family.httpx)
        self._dispatcher = dispatcher
        self._owns_agent = owns_agent
        proxy = dispatcher.factory.proxy
        # pytest-httpx reads these two off an `httpcore.HTTPProxy`; see `BaseTransport._make_pool`.
        if proxy is not None:
            self._proxy_url = proxy.url
            self._proxy_headers = proxy.headers
        self._joins_respx()

    @property
    def _requests(self) -> set[Ticket]:
        """The requests in flight or waiting. The test suites of SDKs read its length."""
        return {ticket for ticket in self._dispatcher.tickets() if ticket.pool is self and not ticket.abandoned}

    def handle_request(self, request: Any) -> Any:
        """Send a request; block until its response begins."""
        dispatcher = self._dispatcher
        if RESPX in sys.modules and self._joins_respx():
            return self.handle_request(request)
        exchange = Exchange(dispatcher, dispatcher.sync_home, dispatcher.key_of(request), request, self)
        try:
            response = run(exchange.send())
            if exchange.response_began:  # if not, a mock answered: leave its response as it is
                response.stream = UnreadBody(exchange, response.stream, self.reference_cycle)
        except BaseException:
            dispatcher.note_dropped(exchange)  # first, because a single call into C cannot be interrupted
            dispatcher.give_up(exchange, with_socket=True)
            raise
        return response

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request; wait until its response begins."""
        dispatcher = self._dispatcher
        if RESPX in sys.modules and self._joins_respx():
            return await self.handle_async_request(request)
        home = dispatcher.find_async_home() or await dispatcher.new_async_home()
        exchange = Exchange(dispatcher, home, dispatcher.key_of(request), request, self)
        try:
            response = await arun(exchange.send())
            if exchange.response_began:  # if not, a mock answered: leave its response as it is
                response.stream = UnreadAsyncBody(exchange, response.stream, self.reference_cycle)
        except GeneratorExit:  # this coroutine is being dropped, and the exchange has been abandoned already
            raise
        except BaseException:
            dispatcher.give_up(exchange, with_socket=True)
            raise
        return response

    def _joins_respx(self) -> bool:
        """Make the pool known to respx; return whether it was not known before.

        If so, respx may just have replaced the pool's methods, so call them anew. respx may have been imported and
        started after the transport was made.
        """
        return register_with_respx(type(self), self._dispatcher.family.httpcore)

    def close(self) -> None:
        """Close the agent, if the pool owns it."""
        if self._owns_agent:
            self.agent.close()

    async def aclose(self) -> None:
        """Close the agent, if the pool owns it."""
        if self._owns_agent:
            await self.agent.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.agent!r}>"
