"""Metrics of an agent through the OpenTelemetry API; needs the extra ``otel``.

Names, units and attributes follow OpenTelemetry's semantic conventions for HTTP where these exist. Metrics without a
convention are named ``httpx_agent.…`` and modelled on the conventions for database pools.

What an agent *holds* is looked up when metrics are collected, in the collector's thread, and costs nothing in between.
What *happens* in it is recorded as it happens. An agent that is not instrumented does neither, and the library itself
never imports this module.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from . import __version__
from ._api.agent import AnyAgent, BaseAgent
from ._pool.observer import Observer
from ._rules.core import State
from ._values.options import install

try:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider
except ImportError as error:
    raise ImportError(f"httpx_agent.otel needs the package 'opentelemetry-api': {install('otel')}") from error

if TYPE_CHECKING:
    from ._pool.dispatcher import Dispatcher
    from ._pool.socket import Socket
    from ._pool.ticket import Ticket
    from ._rules.core import CloseReason
    from ._values.options import AgentOptions
    from ._values.origins import Key

__all__ = ["instrument", "uninstrument"]

OptIn = Literal["url.scheme", "network.peer.address"]
Attributes = Mapping[str, str | int]

_SCHEMA = "https://opentelemetry.io/schemas/1.44.0"

_OPT_IN: tuple[OptIn, ...] = ("url.scheme", "network.peer.address")

#: Methods that an attribute may name; others are reported as ``_OTHER``. The variable replaces this list, as the
#: conventions require of an instrumentation that has such a list.
_METHODS = "CONNECT,DELETE,GET,HEAD,OPTIONS,PATCH,POST,PUT,QUERY,TRACE"
_METHODS_VARIABLE = "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS"

#: Seconds, as the conventions recommend for ``http.client.connection.duration``.
_CONNECTION_BOUNDARIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)

#: Seconds, as the conventions recommend for requests.
_QUEUE_BOUNDARIES = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

_STATES = {State.ACTIVE: "active", State.FREE: "idle"}


def instrument(
    agent: AnyAgent,
    *,
    meter_provider: MeterProvider | None = None,
    pool_name: str | None = None,
    opt_in: Collection[OptIn] = (),
) -> None:
    """Measure an agent from now on; a second call for the same agent replaces the first.

    The agent may already have sockets, and may be discarded at any time. One provider may measure several agents: the
    values with the same attributes are added up, and `pool_name` keeps the agents apart.

    Unknown HTTP methods are reported as ``_OTHER``, as the conventions ask; the environment variable
    ``OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS``, read by this call, replaces the list of known methods.

    Args:
        agent: The agent to measure; a transport's is ``transport.agent``.
        meter_provider: The provider to report to; ``None`` means the global provider, which may be set later.
        pool_name: The value of the attribute ``httpx_agent.pool.name`` on the agent's metrics; ``None`` omits it.
        opt_in: Further attributes that the conventions make optional: ``"url.scheme"``, and ``"network.peer.address"``
            on connections (one series for each address).

    Raises:
        TypeError: If `agent` is not an agent, or `pool_name` is not a string.
        ValueError: If `opt_in` contains any other attribute.
    """
    if not isinstance(agent, BaseAgent):
        raise TypeError(f"agent={agent!r}: expected an httpx_agent.Agent, got {type(agent).__name__}")
    if pool_name is not None and not isinstance(pool_name, str):
        raise TypeError(f"pool_name={pool_name!r}: expected a str or None, got {type(pool_name).__name__}")
    for name in opt_in:
        if name not in _OPT_IN:
            raise ValueError(f"opt_in={opt_in!r}: expected {' or '.join(map(repr, _OPT_IN))}, got {name!r}")
    measured = _Measured(_instruments_of(meter_provider), pool_name, frozenset(opt_in))
    with _looking:
        _measured[agent] = measured
    agent._dispatcher.observe(measured)


def uninstrument(agent: AnyAgent) -> None:
    """Stop measuring an agent; do nothing if it is not measured."""
    with _looking:
        was_measured = _measured.pop(agent, None) is not None
    if was_measured:
        agent._dispatcher.observe(None)


class _Measured(Observer):
    """The measurement of one agent: observes what happens in it, and looks up what it holds.

    Args:
        instruments: The instruments of its provider.
        pool_name: Its name in attributes, if any.
        opt_in: Optional attributes to add.
    """

    def __init__(self, instruments: _Instruments, pool_name: str | None, opt_in: frozenset[str]) -> None:
        self.instruments = instruments
        self._common: Attributes = {} if pool_name is None else {"httpx_agent.pool.name": pool_name}
        self._opt_in = opt_in
        methods = os.environ.get(_METHODS_VARIABLE) or _METHODS
        self._methods = frozenset(method.strip() for method in methods.split(","))

    # Happening --------------------------------------------------------------------------------------------------------

    def request_waited(self, ticket: Ticket, seconds: float, *, served: bool) -> None:
        outcome = "served" if served else "gave_up"
        attributes = {**self._of_origin(ticket.key), "httpx_agent.queue.outcome": outcome}
        self.instruments.queue_duration.record(seconds, attributes)

    def request_retried(self, ticket: Ticket) -> None:
        self.instruments.requests_retried.add(1, self._of_request(ticket))

    def socket_closed(self, socket: Socket, seconds: float, reason: CloseReason) -> None:
        attributes = self._of_socket(socket)
        self.instruments.connection_duration.record(seconds, attributes)
        self.instruments.connections_closed.add(1, {**attributes, "httpx_agent.connection.close_reason": reason.value})

    # Holding ----------------------------------------------------------------------------------------------------------

    def open_connections(self, dispatcher: Dispatcher) -> Iterator[tuple[int, Attributes]]:
        """Yield both states of each connection, so that neither series ends while the other continues."""
        for view, socket in dispatcher.snapshot()[1]:
            if view.state in _STATES:
                attributes = self._of_socket(socket)
                for state, name in _STATES.items():
                    yield int(view.state is state), {**attributes, "http.connection.state": name}

    def active_requests(self, dispatcher: Dispatcher) -> Iterator[tuple[int, Attributes]]:
        """Yield each request from its arrival at the agent to the end of its response."""
        for ticket in dispatcher.tickets():
            yield 1, self._of_request(ticket)

    def waiting_requests(self, dispatcher: Dispatcher) -> Iterator[tuple[int, Attributes]]:
        """Yield waiting requests by origin; 0 for an origin that has sockets but no waiting requests."""
        _, sockets, waiting = dispatcher.snapshot()
        for _, socket in sockets:
            yield 0, self._of_origin(socket.key)
        for key in waiting:
            yield 1, self._of_origin(key)

    @staticmethod
    def limits_of_origins(option: str) -> Look:
        """Return a function that looks up a limit of each origin with a socket or a waiting request."""

        def look(measured: _Measured, dispatcher: Dispatcher) -> Iterator[tuple[int, Attributes]]:
            _, sockets, waiting = dispatcher.snapshot()
            for key in dict.fromkeys([*(socket.key for _, socket in sockets), *waiting]):
                yield from _limit(dispatcher.options_for(key), option, measured._of_origin(key))

        return look

    @staticmethod
    def limit_in_total(option: str) -> Look:
        """Return a function that looks up a limit for all origins together."""

        def look(measured: _Measured, dispatcher: Dispatcher) -> Iterator[tuple[int, Attributes]]:
            yield from _limit(dispatcher.options, option, measured._common)

        return look

    # Attributes -------------------------------------------------------------------------------------------------------

    def _of_origin(self, key: Key) -> Attributes:
        """Return the attributes of the origin server, not of a proxy in front of it."""
        scheme = {"url.scheme": key.scheme} if "url.scheme" in self._opt_in else {}
        return {**self._common, "server.address": key.host, "server.port": key.port, **scheme}

    def _of_request(self, ticket: Ticket) -> Attributes:
        method = ticket.request.method.decode("ascii", errors="replace")
        known = method if method in self._methods else "_OTHER"
        return {**self._of_origin(ticket.key), "http.request.method": known}

    def _of_socket(self, socket: Socket) -> Attributes:
        attributes = dict(self._of_origin(socket.key))
        if socket.http_version is not None:
            attributes["network.protocol.version"] = socket.http_version.removeprefix("HTTP/")
        peer = socket.peer_address
        if "network.peer.address" in self._opt_in and peer is not None:
            attributes["network.peer.address"] = peer if isinstance(peer, str) else peer[0]
        return attributes


Look = Callable[[_Measured, Any], Iterable[tuple[int, Attributes]]]


class _Instruments:
    """The instruments of one provider, shared by all agents that it measures.

    An instrument cannot be removed, and an observable instrument uses only the callbacks from its first creation, so
    there is one set for each provider.
    """

    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter("httpx_agent", __version__, _SCHEMA)
        self.connection_duration = meter.create_histogram(
            "http.client.connection.duration",
            unit="s",
            description="The duration of the successfully established outbound HTTP connections.",
            explicit_bucket_boundaries_advisory=_CONNECTION_BOUNDARIES,
        )
        self.connections_closed = meter.create_counter(
            "httpx_agent.connection.closed",
            unit="{connection}",
            description="Established connections that were closed, by reason.",
        )
        self.queue_duration = meter.create_histogram(
            "httpx_agent.queue.duration",
            unit="s",
            description="How long requests that found no connection waited for one.",
            explicit_bucket_boundaries_advisory=_QUEUE_BOUNDARIES,
        )
        self.requests_retried = meter.create_counter(
            "httpx_agent.request.retried",
            unit="{request}",
            description="Requests sent a second time because their connection turned out to be dead.",
        )
        for name, unit, description, look in (
            (
                "http.client.open_connections",
                "{connection}",
                "Number of outbound HTTP connections that are currently active or idle on the client.",
                _Measured.open_connections,
            ),
            (
                "http.client.active_requests",
                "{request}",
                "Number of active HTTP requests.",
                _Measured.active_requests,
            ),
            (
                "httpx_agent.queue.requests",
                "{request}",
                "Number of requests waiting for a connection.",
                _Measured.waiting_requests,
            ),
            (
                "httpx_agent.connection.max",
                "{connection}",
                "The limit on open connections of an origin: `max_sockets`.",
                _Measured.limits_of_origins("max_sockets"),
            ),
            (
                "httpx_agent.connection.idle.max",
                "{connection}",
                "The limit on idle connections of an origin: `max_free_sockets`.",
                _Measured.limits_of_origins("max_free_sockets"),
            ),
            (
                "httpx_agent.connection.total.max",
                "{connection}",
                "The limit on open connections of the agent: `max_total_sockets`.",
                _Measured.limit_in_total("max_total_sockets"),
            ),
            (
                "httpx_agent.connection.total.idle.max",
                "{connection}",
                "The limit on idle connections of the agent: `max_total_free_sockets`.",
                _Measured.limit_in_total("max_total_free_sockets"),
            ),
        ):
            meter.create_observable_up_down_counter(name, [self._callback(look)], unit=unit, description=description)

    def _callback(self, look: Look) -> Callable[[CallbackOptions], list[Observation]]:
        """Return the callback of an observable instrument: it adds up the values of all agents by attributes."""

        def collect(options: CallbackOptions) -> list[Observation]:
            with _looking:
                agents = [(agent, measured) for agent, measured in _measured.items() if measured.instruments is self]
            values: Counter[tuple[tuple[str, str | int], ...]] = Counter()
            for agent, measured in agents:
                for value, attributes in look(measured, agent._dispatcher):
                    values[tuple(attributes.items())] += value
            return [Observation(value, dict(attributes)) for attributes, value in values.items()]

        return collect


#: Held to read or change the measured agents, never to call OpenTelemetry, which collects under its own lock.
_looking = threading.Lock()

_measured: WeakKeyDictionary[AnyAgent, _Measured] = WeakKeyDictionary()

#: Held while instruments are created.
_making = threading.Lock()

#: Stands for the global provider, whichever it is.
_GLOBAL = object()

_instruments: dict[object, _Instruments] = {}


def _instruments_of(provider: MeterProvider | None) -> _Instruments:
    """Return the instruments of a provider, creating them on the first call.

    Until the global provider is set, OpenTelemetry returns a stand-in; its instruments later work for the real one.
    """
    with _making:
        current = get_meter_provider()
        if provider is None or provider is current:
            provider = current
            known = _instruments.get(current) or _instruments.get(_GLOBAL)
        else:
            known = _instruments.get(provider)
        if known is None:
            known = _Instruments(provider)
            _instruments[_GLOBAL if provider is current else provider] = known
        return known


def _limit(options: AgentOptions, option: str, attributes: Attributes) -> Iterator[tuple[int, Attributes]]:
    """Yield the limit, if one is set."""
    value: int | None = getattr(options, option)
    if value is not None:
        yield value, attributes
