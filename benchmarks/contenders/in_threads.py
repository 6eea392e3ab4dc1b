"""The contenders of the sync cases."""

from __future__ import annotations

import ssl
from abc import abstractmethod
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from . import TIMEOUT, OverAgent, Setup, SyncContender, Unavailable

if TYPE_CHECKING:
    import httpx
    import httpx2
    import niquests
    import requests
    import urllib3

    from .. import raw


class OverHttpx(SyncContender):
    """`httpx.Client` over some transport."""

    @abstractmethod
    def transport(self, setup: Setup) -> httpx.BaseTransport:
        """The transport."""

    def open(self, setup: Setup) -> None:
        import httpx

        self.client = httpx.Client(transport=self.transport(setup), timeout=TIMEOUT)

    def request(self, url: str) -> int:
        return len(self.client.get(url).content)

    def close(self) -> None:
        self.client.close()


class Ceiling(OverHttpx, name="ceiling", label="ceiling: httpx over nothing", package="httpx"):
    """What an httpx client can do if the transport costs nothing."""

    def transport(self, setup: Setup) -> httpx.BaseTransport:
        from ..bounds import Nothing

        return Nothing()


class Bare(OverHttpx, name="bare", label="httpx over bare sockets, no pool", package="httptools"):
    """What an httpx client can do over sockets that nobody manages."""

    def transport(self, setup: Setup) -> httpx.BaseTransport:
        from ..bounds import BareSocketTransport

        return BareSocketTransport()


class Httpx(OverHttpx, name="httpx", label="httpx, default transport", package="httpx"):
    def transport(self, setup: Setup) -> httpx.BaseTransport:
        import httpx

        limits = httpx.Limits(
            max_connections=setup.sockets, max_keepalive_connections=setup.sockets, keepalive_expiry=TIMEOUT
        )
        return httpx.HTTPTransport(verify=ssl.create_default_context(cafile=setup.certificate), limits=limits)


class Agent(OverAgent, OverHttpx, package="httpx-agent"):
    """`AgentTransport`; its subclasses say with which engine."""


class AgentHttptools(Agent, name="agent-httptools", label="AgentTransport, httptools"):
    engine = "httptools"


class AgentH11(Agent, name="agent-h11", label="AgentTransport, h11"):
    engine = "h11"


class Relay(SyncContender, name="relay", label="threads alone, no pool"):
    """Threads that wait for each other, as a floor of the pool's own cost; `cost.Relay` does it."""

    engine = "none"

    def open(self, setup: Setup) -> None:
        raise Unavailable("it sends no requests")

    def request(self, url: str) -> int:
        raise Unavailable("it sends no requests")

    def close(self) -> None:
        pass


class Pyreqwest(OverHttpx, name="pyreqwest", label="httpx over pyreqwest", package="pyreqwest"):
    def transport(self, setup: Setup) -> httpx.BaseTransport:
        from pyreqwest.client import SyncClientBuilder
        from pyreqwest.compatibility.httpx import SyncHttpxTransport

        client = (
            SyncClientBuilder()
            .add_root_certificate_pem(Path(setup.certificate).read_bytes())
            .max_connections(setup.sockets)
            .pool_max_idle_per_host(setup.sockets)
            .pool_idle_timeout(timedelta(seconds=TIMEOUT))
            .http1_only()
            .build()
        )
        transport: httpx.BaseTransport = SyncHttpxTransport(client)
        return transport


class Requests(SyncContender, name="requests", label="requests", package="requests"):
    session: requests.Session

    def open(self, setup: Setup) -> None:
        require_the_real_urllib3()
        import requests
        from requests.adapters import HTTPAdapter

        self.session = requests.Session()
        self.session.verify = setup.certificate
        adapter = HTTPAdapter(pool_connections=setup.origins, pool_maxsize=setup.sockets, pool_block=True)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, adapter)

    def request(self, url: str) -> int:
        return len(self.session.get(url, timeout=TIMEOUT).content)

    def close(self) -> None:
        self.session.close()


class Urllib3(SyncContender, name="urllib3", label="urllib3", package="urllib3"):
    manager: urllib3.PoolManager

    def open(self, setup: Setup) -> None:
        require_the_real_urllib3()
        import urllib3

        self.manager = urllib3.PoolManager(
            num_pools=setup.origins,
            maxsize=setup.sockets,
            block=True,
            ca_certs=setup.certificate,
            timeout=TIMEOUT,
        )

    def request(self, url: str) -> int:
        return len(self.manager.request("GET", url).data)

    def close(self) -> None:
        self.manager.clear()


class Niquests(SyncContender, name="niquests", label="niquests", package="niquests"):
    session: niquests.Session

    def open(self, setup: Setup) -> None:
        import niquests

        self.session = niquests.Session(
            pool_connections=setup.origins, pool_maxsize=setup.sockets, disable_http3=True, timeout=TIMEOUT
        )
        self.session.verify = setup.certificate

    def request(self, url: str) -> int:
        return len(self.session.get(url).content or b"")

    def close(self) -> None:
        self.session.close()


class Httpx2(SyncContender, name="httpx2", label="httpx2, default transport", package="httpx2"):
    client: httpx2.Client

    def open(self, setup: Setup) -> None:
        import httpx2

        self.client = httpx2.Client(
            verify=ssl.create_default_context(cafile=setup.certificate),
            limits=httpx2.Limits(
                max_connections=setup.sockets, max_keepalive_connections=setup.sockets, keepalive_expiry=TIMEOUT
            ),
            timeout=TIMEOUT,
        )

    def request(self, url: str) -> int:
        return len(self.client.get(url).content)

    def close(self) -> None:
        self.client.close()


class Floor(SyncContender, name="floor", label="floor: sockets, no client"):
    """Bytes out, bytes in, counted: what the system itself costs."""

    sockets: raw.RawSockets

    def open(self, setup: Setup) -> None:
        from ..raw import RawSockets

        self.sockets = RawSockets()

    def request(self, url: str) -> int:
        return self.sockets.request(url)

    def close(self) -> None:
        self.sockets.close()


def require_the_real_urllib3() -> None:
    """Refuse to measure urllib3-future, a requirement of niquests, under the name of urllib3, whose place it takes."""
    import urllib3

    if urllib3.__version__ != metadata.version("urllib3"):
        raise Unavailable(f"`import urllib3` gives {urllib3.__version__}, not {metadata.version('urllib3')}")


CONTENDERS: tuple[type[SyncContender], ...] = (
    Floor,
    Ceiling,
    Bare,
    Httpx,
    AgentHttptools,
    AgentH11,
    Relay,
    Pyreqwest,
    Requests,
    Urllib3,
    Niquests,
    Httpx2,
)
