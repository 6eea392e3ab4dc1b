"""Agents in other processes: what is sent is the options and an identity, never a socket.

Unpickled twice in one process, it is the same agent; so a task queue that sends an agent along with each task gets one
pool of sockets for each worker, and not one for each task. For that, an agent that came from elsewhere is kept between
tasks, when nobody refers to it, until it is closed.

An agent has its identity from the beginning, not from its first pickle: a worker that was forked has the agents of its
parent, and must know them when the parent sends one later.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

from .._runtime import process
from .._runtime.locks import Lock, held
from .._values.options import full_name

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from .._pool.dispatcher import Dispatcher

#: Agents from elsewhere that are kept although nobody refers to them; of more, the one that came longest ago is let go.
MAX_KEPT = 100

#: What to do about an option that cannot be sent.
_ADVICE = {
    "verify": "pass the path of a file or directory of certificates",
    "proxy": "pass one without an ssl_context",
    "network_backend": "pass an instance of a class defined at the top level of a module",
    "async_network_backend": "pass an instance of a class defined at the top level of a module",
}


class Agent(Protocol):
    """An agent that knows its identity."""

    _identity: str
    _dispatcher: Dispatcher

    def _set_up(self, given: dict[str, Any], identity: str | None = None) -> None:
        """Begin with some options."""


class Identities:
    """The agents of this process by their identities."""

    def __init__(self) -> None:
        self._agents: WeakValueDictionary[str, Agent] = WeakValueDictionary()
        self._kept: OrderedDict[str, Agent] = OrderedDict()
        self.begin_anew()
        process.register(self)

    def begin_anew(self) -> None:
        """Renew in a forked child the lock that a thread of the parent may hold; the agents there are the same."""
        self._lock = Lock()

    def enter(self, agent: Agent, identity: str | None) -> str:
        """Note an agent that was made, and return its identity: the one that it came with, or a new one."""
        identity = identity or os.urandom(16).hex()
        self._agents[identity] = agent
        return identity

    def revive(self, kind: type[Agent], identity: str, options: Mapping[str, Any]) -> Agent:
        """Return the agent of an identity; make it if this process has none."""
        agent, displaced = self._find_or_make(kind, identity, options)
        if displaced is not None:
            displaced._dispatcher.rest()  # and whoever still uses it goes on with new sockets
        return agent

    @held("_lock")
    def _find_or_make(self, kind: type[Agent], identity: str, options: Mapping[str, Any]) -> tuple[Agent, Agent | None]:
        """Return the agent of an identity, and the one that is kept no longer because of it."""
        agent = self._agents.get(identity)
        displaced = None
        if agent is None:
            agent = object.__new__(kind)
            agent._set_up(dict(options), identity)
            self._kept[identity] = agent
            if len(self._kept) > MAX_KEPT:
                _, displaced = self._kept.popitem(last=False)
        elif identity in self._kept:
            self._kept.move_to_end(identity)
        return agent, displaced

    @held("_lock")
    def let_go(self, agent: Agent) -> None:
        """Keep an agent no longer than somebody refers to it: it was closed."""
        self._kept.pop(agent._identity, None)


identities = Identities()


def revive(kind: type[Agent], identity: str, options: Mapping[str, Any]) -> Agent:
    """Return the agent of a pickle, in the process that it came to."""
    return identities.revive(kind, identity, options)


def state_of(thing: Any, own: Container[str]) -> Any:
    """Return the attributes of an object besides its own, or what a `__getstate__` of the user's makes of them."""
    state = thing.__getstate__()
    is_plain = type(thing).__getstate__ is object.__getstate__  # type: ignore[comparison-overlap]
    if is_plain and isinstance(state, tuple):  # of `__dict__`, and of slots
        state = {**(state[0] or {}), **state[1]}
    return {name: value for name, value in state.items() if name not in own} if isinstance(state, dict) else state


def check_options(options: Mapping[str, Any]) -> None:
    """Raise for an option that no other process can be sent.

    Raises:
        pickle.PicklingError: Naming the option, and what can be sent in its place.
    """
    picklers: list[Any] = [pickle, *(sys.modules[name] for name in ("cloudpickle", "dill") if name in sys.modules)]
    for name, value in options.items():
        reasons = [_why_not(pickler, value) for pickler in picklers]
        if None not in reasons:
            advice = f"{_ADVICE[name]}, or create the agent there" if name in _ADVICE else "create the agent there"
            raise pickle.PicklingError(
                f"{name}: this {full_name(type(value))} cannot be sent to another process ({reasons[0]}); {advice}"
            )


def _why_not(pickler: Any, value: object) -> str | None:
    """Return why a value cannot be pickled, or ``None`` if it can."""
    try:
        pickler.dumps(value)
    except Exception as error:  # whatever a class of the user's raises
        return str(error)
    return None
