"""A free socket that the server closes leaves the agent at once."""

import time

import httpx

from httpx_agent import AgentTransport
from server import serve

transport = AgentTransport()
agent = transport.agent
with serve() as url, httpx.Client(transport=transport) as client:
    client.get(f"{url}/leave")  # the server closes the socket 0.1 s after answering
    print(agent)
    while agent.sockets():
        time.sleep(0.01)
    print(agent)
