"""A rate limit around the agent."""

import asyncio

import httpx
from httpx_limiter import AsyncRateLimitedTransport, Rate
from httpx_limiter.aiolimiter import AiolimiterAsyncLimiter

from httpx_agent import AgentTransport
from server import serve


async def main(url: str) -> None:
    inner = AgentTransport(max_sockets=2)
    limiter = AiolimiterAsyncLimiter.create(Rate.create(magnitude=100, duration=1))
    transport = AsyncRateLimitedTransport(limiter=limiter, transport=inner)
    async with httpx.AsyncClient(transport=transport) as client:
        await asyncio.gather(*[client.get(url) for _ in range(20)])
        print(inner.agent.status().request_count, "requests,", end=" ")
        # httpx-limiter does not close the transport it wraps, so close `inner` here.
    await inner.aclose()
    print(inner.agent.status().create_socket_count, "sockets")


with serve() as url:
    asyncio.run(main(url))
