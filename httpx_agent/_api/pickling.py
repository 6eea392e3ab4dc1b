"""Send agents to other processes: a pickle contains the options and an identity, never a socket.

Unpickling an agent twice in one process returns the same agent. So a task queue that sends an agent with each task gets
one set of sockets for each worker instead of one for each task. To make this work, a process keeps a received agent
between tasks, when nothing refers to it, until it is closed.

An agent gets its identity when it is made, not when it is first pickled: a forked worker already has its parent's
agents, and must recognise them when the parent sends one later.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

from .._runtime import process
from .._runtime.locks import Lock, held
from .._values.options import full_name

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from .._pool.dispatcher import Dispatcher

#: How many received agents to keep although nothing refers to them; beyond this, drop the one received longest ago.
MAX_KEPT = 100

#: The advice for an option that cannot be pickled.
_ADVICE = {
    "verify": "pass the path of a file or directory of certificates",
    "proxy": "pass one without an ssl_context",
    "network_backend": "pass an instance of a class defined at the top level of a module",
    "async_network_backend": "pass an instance of a class defined at the top level of a module",
}


class Agent(Protocol):
    """An agent with its identity."""

    _identity: str
    _dispatcher: Dispatcher

    def _set_up(self, given: dict[str, Any], identity: str | None = None) -> None:
        """Set up the agent with some options."""


class Identities:
    """The agents of this process, by identity."""

    def __init__(self) -> None:
        self._agents: WeakValueDictionary[str, Agent] = WeakValueDictionary()
        self._kept: OrderedDict[str, Agent] = OrderedDict()
        self._lock = Lock()
        process.register(self)

    def after_fork(self) -> None:
        """Replace the lock in a forked child, because a thread of the parent may hold it; the agents stay the same."""
        self._lock = Lock()

    def enter(self, agent: Agent, identity: str | None) -> str:
        """Record a new agent, and return its identity: the one it was received with, or a new one."""
        identity = identity or os.urandom(16).hex()
        self._agents[identity] = agent
        return identity

    def revive(self, kind: type[Agent], identity: str, options: Mapping[str, Any]) -> Agent:
        """Return the agent with an identity; make it if this process does not have it."""
        agent, displaced = self._find_or_make(kind, identity, options)
        if displaced is not None:
            displaced._dispatcher.close_free_sockets()  # users of it, if any, continue with new sockets
        return agent

    @held("_lock")
    def _find_or_make(self, kind: type[Agent], identity: str, options: Mapping[str, Any]) -> tuple[Agent, Agent | None]:
        """Return the agent with an identity, and the agent that is no longer kept because of it, if any."""
        agent = self._agents.get(identity)
        displaced = None
        if agent is None:
            agent = object.__new__(kind)
            agent._set_up(dict(options), identity)
            self._kept[identity] = agent
            if len(self._kept) > MAX_KEPT:
                _, displaced = self._kept.popitem(last=False)
        else:
            with suppress(KeyError):  # it is not kept, or a finaliser has closed it just now
                self._kept.move_to_end(identity)
        return agent, displaced

    @held("_lock")
    def let_go(self, agent: Agent) -> None:
        """Stop keeping an agent that was closed; from now on it lives only as long as something refers to it."""
        self._kept.pop(agent._identity, None)


identities = Identities()


def revive(kind: type[Agent], identity: str, options: Mapping[str, Any]) -> Agent:
    """Return the agent described by a pickle, in the receiving process."""
    return identities.revive(kind, identity, options)


def state_of(thing: Any, own: Container[str]) -> Any:
    """Return the attributes that a user has added to an object, or the result of the user's own `__getstate__`."""
    state = thing.__getstate__()
    is_plain = type(thing).__getstate__ is object.__getstate__  # type: ignore[comparison-overlap]
    if is_plain and isinstance(state, tuple):  # from `__dict__`, and from slots
        state = {**(state[0] or {}), **state[1]}
    return {name: value for name, value in state.items() if name not in own} if isinstance(state, dict) else state


def check_options(options: Mapping[str, Any]) -> None:
    """Check that every option can be sent to another process.

    Raises:
        pickle.PicklingError: If one cannot; the message names it, and what to pass instead.
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
    except Exception as error:  # a user's class may raise anything
        return str(error)
    return None
