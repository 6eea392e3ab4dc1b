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
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from . import _fork
from ._locks import locked
from ._options import full_name

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from ._agent import AnyAgent

#: Agents from elsewhere that are kept although nobody refers to them; of more, the one that came longest ago is let go.
MAX_KEPT = 100

#: What to do about an option that cannot be sent.
_ADVICE = {
    "verify": "give the path of a file or folder of certificates",
    "proxy": "give one without an ssl_context",
    "network_backend": "give an instance of a class that stands at the top of a module",
    "async_network_backend": "give an instance of a class that stands at the top of a module",
}


class Identities:
    """The agents of this process by their identities."""

    def __init__(self) -> None:
        self._agents: WeakValueDictionary[str, AnyAgent] = WeakValueDictionary()
        self._kept: OrderedDict[str, AnyAgent] = OrderedDict()
        self.begin_anew()
        _fork.register(self)

    def begin_anew(self) -> None:
        """Renew in a forked child the lock that a thread of the parent may hold; the agents there are the same."""
        self._lock = threading.RLock()

    def enter(self, agent: AnyAgent, identity: str | None) -> str:
        """Note an agent that was made, and return its identity: the one that it came with, or a new one."""
        identity = identity or os.urandom(16).hex()
        with self._lock:
            self._agents[identity] = agent
        return identity

    def revive(self, kind: type[AnyAgent], identity: str, options: Mapping[str, Any]) -> AnyAgent:
        """Return the agent of an identity; make it if this process has none."""
        let_go = None
        with self._lock:
            agent = self._agents.get(identity)
            if agent is None:
                agent = object.__new__(kind)
                agent._set_up(dict(options), identity)
                self._kept[identity] = agent
                if len(self._kept) > MAX_KEPT:
                    _, let_go = self._kept.popitem(last=False)
            elif identity in self._kept:
                self._kept.move_to_end(identity)
        if let_go is not None:
            let_go._engine.rest()  # and whoever still uses it goes on with new sockets
        return agent

    @locked
    def let_go(self, agent: AnyAgent) -> None:
        """Keep an agent no longer than somebody refers to it: it was closed."""
        self._kept.pop(agent._identity, None)


identities = Identities()


def revive(kind: type[AnyAgent], identity: str, options: Mapping[str, Any]) -> AnyAgent:
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
            advice = f"{_ADVICE[name]}, or make the agent there" if name in _ADVICE else "make the agent there"
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
