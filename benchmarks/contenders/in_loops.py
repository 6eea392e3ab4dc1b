"""The contenders of the async cases."""

from __future__ import annotations

import ssl
from abc import abstractmethod
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from . import TIMEOUT, AsyncContender, OverAgent, Setup

if TYPE_CHECKING:
    import aiohttp
    import httpx
    import httpx2
    import niquests

    from .. import raw


class OverHttpx(AsyncContender):
    """`httpx.AsyncClient` over some transport."""

    @abstractmethod
    def transport(self, setup: Setup) -> httpx.AsyncBaseTransport:
        """The transport."""

    async def open(self, setup: Setup) -> None:
        import httpx

        self.client = httpx.AsyncClient(transport=self.transport(setup), timeout=TIMEOUT)

    async def request(self, url: str) -> int:
        response = await self.client.get(url)
        return len(response.content)

    async def close(self) -> None:
        await self.client.aclose()


class Ceiling(OverHttpx, name="ceiling", label="ceiling: httpx over nothing", package="httpx"):
    """What an httpx client can do if the transport costs nothing."""

    def transport(self, setup: Setup) -> httpx.AsyncBaseTransport:
        from ..bounds import Nothing

        return Nothing()


class Bare(OverHttpx, name="bare", label="httpx over bare sockets, no pool", package="httptools"):
    """What an httpx client can do over sockets that nobody manages."""

    def transport(self, setup: Setup) -> httpx.AsyncBaseTransport:
        from ..bounds import BareTransport

        return BareTransport()


class Httpx(OverHttpx, name="httpx", label="httpx, default transport", package="httpx"):
    def transport(self, setup: Setup) -> httpx.AsyncBaseTransport:
        import httpx

        limits = httpx.Limits(
            max_connections=setup.sockets, max_keepalive_connections=setup.sockets, keepalive_expiry=TIMEOUT
        )
        return httpx.AsyncHTTPTransport(verify=ssl.create_default_context(cafile=setup.certificate), limits=limits)


class Agent(OverAgent, OverHttpx, package="httpx-agent"):
    """`AgentTransport`; its subclasses say with which engine."""


class AgentHttptools(Agent, name="agent-httptools", label="AgentTransport, httptools"):
    engine = "httptools"


class AgentH11(Agent, name="agent-h11", label="AgentTransport, h11"):
    engine = "h11"


class AgentAlone(AgentHttptools, name="agent-httptools-alone", label="AgentTransport.handle_async_request"):
    """The transport without the client: one request, made once, is sent again and again."""

    async def open(self, setup: Setup) -> None:
        await super().open(setup)
        self.requests: dict[str, httpx.Request] = {}

    async def request(self, url: str) -> int:
        import httpx

        if url not in self.requests:
            self.requests[url] = self.client.build_request("GET", url)
        response = await self.client._transport.handle_async_request(self.requests[url])
        assert isinstance(response.stream, httpx.AsyncByteStream)
        length = 0
        async for part in response.stream:
            length += len(part)
        await response.stream.aclose()
        return length


class HttpxAiohttp(OverHttpx, name="httpx-aiohttp", label="httpx over httpx-aiohttp", package="httpx-aiohttp"):
    def transport(self, setup: Setup) -> httpx.AsyncBaseTransport:
        import httpx
        from httpx_aiohttp import AiohttpTransport

        transport: httpx.AsyncBaseTransport = AiohttpTransport(
            verify=ssl.create_default_context(cafile=setup.certificate),
            limits=httpx.Limits(max_connections=setup.sockets, keepalive_expiry=TIMEOUT),
        )
        return transport


class Pyreqwest(OverHttpx, name="pyreqwest", label="httpx over pyreqwest", package="pyreqwest"):
    def transport(self, setup: Setup) -> httpx.AsyncBaseTransport:
        from pyreqwest.client import ClientBuilder
        from pyreqwest.compatibility.httpx import HttpxTransport

        client = (
            ClientBuilder()
            .add_root_certificate_pem(Path(setup.certificate).read_bytes())
            .max_connections(setup.sockets)
            .pool_max_idle_per_host(setup.sockets)
            .pool_idle_timeout(timedelta(seconds=TIMEOUT))
            .http1_only()
            .build()
        )
        transport: httpx.AsyncBaseTransport = HttpxTransport(client)
        return transport


class Aiohttp(AsyncContender, name="aiohttp", label="aiohttp", package="aiohttp"):
    session: aiohttp.ClientSession

    async def open(self, setup: Setup) -> None:
        import aiohttp

        connector = aiohttp.TCPConnector(
            limit=setup.sockets,
            keepalive_timeout=TIMEOUT,
            ssl=ssl.create_default_context(cafile=setup.certificate),
        )
        self.session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT))

    async def request(self, url: str) -> int:
        async with self.session.get(url) as response:
            return len(await response.read())

    async def close(self) -> None:
        await self.session.close()


class Niquests(AsyncContender, name="niquests", label="niquests", package="niquests"):
    session: niquests.AsyncSession

    async def open(self, setup: Setup) -> None:
        import niquests

        self.session = niquests.AsyncSession(
            pool_connections=setup.origins, pool_maxsize=setup.sockets, disable_http3=True, timeout=TIMEOUT
        )
        self.session.verify = setup.certificate

    async def request(self, url: str) -> int:
        response = await self.session.get(url)
        return len(response.content or b"")

    async def close(self) -> None:
        await self.session.close()


class Httpx2(AsyncContender, name="httpx2", label="httpx2, default transport", package="httpx2"):
    client: httpx2.AsyncClient

    async def open(self, setup: Setup) -> None:
        import httpx2

        self.client = httpx2.AsyncClient(
            verify=ssl.create_default_context(cafile=setup.certificate),
            limits=httpx2.Limits(
                max_connections=setup.sockets, max_keepalive_connections=setup.sockets, keepalive_expiry=TIMEOUT
            ),
            timeout=TIMEOUT,
        )

    async def request(self, url: str) -> int:
        response = await self.client.get(url)
        return len(response.content)

    async def close(self) -> None:
        await self.client.aclose()


class Floor(AsyncContender, name="floor", label="floor: sockets, no client"):
    """Bytes out, bytes in, counted: what asyncio itself costs."""

    streams: raw.RawStreams

    async def open(self, setup: Setup) -> None:
        from ..raw import RawStreams

        self.streams = RawStreams()

    async def request(self, url: str) -> int:
        return await self.streams.request(url)

    async def close(self) -> None:
        self.streams.close()


CONTENDERS: tuple[type[AsyncContender], ...] = (
    Floor,
    Bare,
    Ceiling,
    Httpx,
    AgentHttptools,
    AgentH11,
    AgentAlone,
    HttpxAiohttp,
    Pyreqwest,
    Aiohttp,
    Niquests,
    Httpx2,
)
