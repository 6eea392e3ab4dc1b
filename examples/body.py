"""A socket is free when its response has been read to the end."""

import httpx
from server import serve

from httpx_agent import Agent, AgentTransport

with serve() as url, Agent() as agent, httpx.Client(transport=AgentTransport(agent=agent)) as client:
    with client.stream("GET", f"{url}/big") as response:
        print("not read yet:", agent)
        response.read()
        print("read:", agent)

    with client.stream("GET", f"{url}/big") as response:
        pass
    print("closed before its end:", agent)
