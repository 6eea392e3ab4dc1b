"""A free socket that the server closes leaves the agent at once, with no request needed."""

import time

import httpx
from server import serve

from httpx_agent import Agent, AgentTransport

with serve() as url, Agent() as agent, httpx.Client(transport=AgentTransport(agent=agent)) as client:
    client.get(f"{url}/leave")  # the server closes the socket 0.05 s after its answer
    print(agent)
    time.sleep(0.2)
    print(agent)
