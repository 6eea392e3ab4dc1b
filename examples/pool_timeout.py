"""A request that waits for a socket longer than its pool timeout."""

import httpx

from httpx_agent import AgentTransport
from server import serve

with serve() as url, httpx.Client(transport=AgentTransport(max_sockets=1)) as client:
    with client.stream("GET", f"{url}/big"):  # not read yet, so its socket is in use
        try:
            client.get(url, timeout=httpx.Timeout(5, pool=0.1))
        except httpx.PoolTimeout as error:
            print(error)
