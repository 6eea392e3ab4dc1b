"""Which socket served a request, and how it came to it."""

import httpx
from server import serve

from httpx_agent import AgentTransport, RequestInfo

with serve() as url, httpx.Client(transport=AgentTransport()) as client:
    for _ in range(3):
        response = client.get(url)
        info: RequestInfo = response.extensions["agent"]
        print(f"socket {info.socket_id}, reused: {info.reused}, request {info.requests_on_socket} on it")

    print(f"free before the last request: {info.idle_for is not None}, sent twice: {info.retried}")
