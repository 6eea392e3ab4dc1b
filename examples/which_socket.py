"""Which socket served a request, and how it was obtained."""

import httpx

from httpx_agent import AgentTransport, RequestInfo
from server import serve

with serve() as url, httpx.Client(transport=AgentTransport()) as client:
    for _ in range(3):
        response = client.get(url)
        info: RequestInfo = response.extensions["agent"]
        print(f"socket {info.socket_id}, reused: {info.reused},", end=" ")
        print(f"request {info.requests_on_socket} on it")

    print("free before the last request:", info.idle_for is not None)
    print("sent twice:", info.retried)
