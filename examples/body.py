"""A socket becomes free when its response has been read to the end."""

import httpx

from httpx_agent import AgentTransport
from server import serve

transport = AgentTransport()
agent = transport.agent
with serve() as url, httpx.Client(transport=transport) as client:
    with client.stream("GET", f"{url}/big") as response:
        print("not read yet:", agent)
        response.read()
        print("read:", agent)

    with client.stream("GET", f"{url}/big") as response:
        pass
    print("closed before its end:", agent)
