"""The contenders: one small class per client, with one face.

To add one, write a class in ``in_loops.py`` or ``in_threads.py`` and name it in ``cases.py``. A contender imports its
client when it is opened: the process that measures it then holds nothing else, and a client that is not installed is
left out with the reason.
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from httpx_agent import AgentTransport

TIMEOUT = 300.0
"""Seconds. Every contender has the same, long enough never to fire, because a client in use has one."""


@dataclass(frozen=True)
class Setup:
    """What a contender is opened with.

    Attributes:
        sockets: How many sockets may be open, and stay open while they are free.
        origins: How many origins there will be.
        certificate: Path of the certificate authority to trust.
    """

    sockets: int
    origins: int
    certificate: str


class Unavailable(Exception):
    """A contender cannot take part; its text says why."""


class Contender(ABC):
    """A client under measure.

    Attributes:
        name: The name by which `cases` knows it.
        label: What tables and plots call it.
        package: The package whose version is noted; `None` if there is none.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    package: ClassVar[str | None] = None

    def __init_subclass__(cls, *, name: str = "", label: str = "", package: str | None = None) -> None:
        if name:
            cls.name, cls.label = name, label
        if package is not None:
            cls.package = package

    @classmethod
    def version(cls) -> str | None:
        """The version of its package."""
        return None if cls.package is None else metadata.version(cls.package)


class AsyncContender(Contender):
    """A client for asyncio."""

    @abstractmethod
    async def open(self, setup: Setup) -> None:
        """Make the client; no request is sent yet."""

    @abstractmethod
    async def request(self, url: str) -> int:
        """Send a GET request, read the whole body, and return its length."""

    @abstractmethod
    async def close(self) -> None:
        """Close the client."""


class SyncContender(Contender):
    """A client for threads; `request` is called by several at once."""

    @abstractmethod
    def open(self, setup: Setup) -> None:
        """Make the client; no request is sent yet."""

    @abstractmethod
    def request(self, url: str) -> int:
        """Send a GET request, read the whole body, and return its length."""

    @abstractmethod
    def close(self) -> None:
        """Close the client."""


class OverAgent(Contender):
    """httpx over `AgentTransport`, in both worlds."""

    engine: ClassVar[Literal["httptools", "h11"]]

    @classmethod
    def version(cls) -> str:
        from httpx_agent import __version__  # a checkout may not be installed

        return __version__

    def transport(self, setup: Setup) -> AgentTransport:
        """The transport."""
        from httpx_agent import AgentTransport

        return AgentTransport(
            verify=ssl.create_default_context(cafile=setup.certificate),
            max_cached_sessions=100,
            max_sockets=setup.sockets,
            max_free_sockets=setup.sockets,
            free_socket_timeout=TIMEOUT,
            http1_engine=self.engine,
        )
