"""Agents in other processes: what is sent is the options and an identity, never a socket.

Unpickled twice in one process, it is the same agent; so a task queue that sends an agent along with each task gets one
pool of sockets for each worker, and not one for each task. For that, an agent that came from elsewhere is kept between
tasks, when nobody refers to it, until it is closed.
"""

from __future__ import annotations

import pickle
import sys
import threading
import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from . import _fork

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._agent import AnyAgent

#: Agents from elsewhere that are kept although nobody refers to them; of more, the one that came first is let go.
MAX_KEPT = 100


class Identities:
    """The agents of this process that have an identity."""

    def __init__(self) -> None:
        self._agents: WeakValueDictionary[str, AnyAgent] = WeakValueDictionary()
        self._kept: OrderedDict[str, AnyAgent] = OrderedDict()
        self.begin_anew()
        _fork.register(self)

    def begin_anew(self) -> None:
        """Renew in a forked child the lock that a thread of the parent may hold; the agents there are the same."""
        self._lock = threading.RLock()

    def of(self, agent: AnyAgent) -> str:
        """Return the identity of an agent, which it is given the first time."""
        with self._lock:
            if agent._identity is None:
                agent._identity = uuid.uuid4().hex
                self._agents[agent._identity] = agent
            return agent._identity

    def revive(
        self, kind: type[AnyAgent], identity: str, options: Mapping[str, Any], attributes: Mapping[str, Any]
    ) -> AnyAgent:
        """Return the agent of an identity; make it if this process has none."""
        with self._lock:
            agent = self._agents.get(identity)
            if agent is None:
                agent = object.__new__(kind)
                kind._set_up(agent, dict(options))
                agent.__dict__.update(attributes)
                agent._identity = identity
                self._agents[identity] = self._kept[identity] = agent
                if len(self._kept) > MAX_KEPT:
                    self._kept.popitem(last=False)
            return agent

    def let_go(self, agent: AnyAgent) -> None:
        """Keep an agent no longer than somebody refers to it: it was closed."""
        if agent._identity is not None:
            with self._lock:
                self._kept.pop(agent._identity, None)


identities = Identities()


def revive(kind: type[AnyAgent], identity: str, options: Mapping[str, Any], attributes: Mapping[str, Any]) -> AnyAgent:
    """What a pickled agent calls in the process that it comes to."""
    return identities.revive(kind, identity, options, attributes)


def check_options(options: Mapping[str, Any]) -> None:
    """Raise for an option that no other process can be sent.

    Raises:
        pickle.PicklingError: Naming the option.
    """
    picklers: list[Any] = [pickle, *(sys.modules[name] for name in ("cloudpickle", "dill") if name in sys.modules)]
    for name, value in options.items():
        reasons = [_why_not(pickler, value) for pickler in picklers]
        if None not in reasons:
            raise pickle.PicklingError(
                f"{name}: {type(value).__name__} cannot be sent to another process ({reasons[0]}). Make the agent "
                "there, or give what can be sent, such as the path of a certificate file in place of an SSLContext"
            )


def _why_not(pickler: Any, value: object) -> str | None:
    """Return why a value cannot be pickled, or ``None`` if it can."""
    try:
        pickler.dumps(value)
    except Exception as error:  # whatever a class of the user's raises
        return str(error)
    return None
