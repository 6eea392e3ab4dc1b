"""Arguments of httpx.Client that have no effect on its transport, or bypass it."""

import httpx

from httpx_agent import AgentTransport
from server import serve

with serve() as url:
    # --8<-- [start:limits]
    transport = AgentTransport()
    limits = httpx.Limits(max_connections=1)
    with httpx.Client(transport=transport, limits=limits) as client:
        print("limits of the client:", transport.agent.max_total_sockets)
    # --8<-- [end:limits]

    # --8<-- [start:proxy]
    proxy = url  # the server also answers proxy requests

    transport = AgentTransport()
    with httpx.Client(transport=transport, proxy=proxy) as client:
        response = client.get("http://example.org/")
        print("proxy given to the client:", "agent" in response.extensions)

    transport = AgentTransport(proxy=proxy)
    with httpx.Client(transport=transport) as client:
        response = client.get("http://example.org/")
        print("proxy given to the transport:", "agent" in response.extensions)
    # --8<-- [end:proxy]
