"""One agent under several mounts."""

import httpx

from httpx_agent import Agent, AgentTransport
from server import serve

with Agent(max_total_sockets=20) as agent, serve() as url:
    mounts = {
        "http://127.0.0.1": AgentTransport(agent=agent),
        "https://": AgentTransport(agent=agent),
    }
    with httpx.Client(transport=AgentTransport(agent=agent), mounts=mounts) as client:
        client.get(url)
    print(agent.status().request_count, "request,", len(agent.sockets()), "socket")
