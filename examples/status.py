"""What an agent tells about itself."""

import httpx
from server import serve

from httpx_agent import Agent, AgentTransport

with serve() as url, Agent() as agent, httpx.Client(transport=AgentTransport(agent=agent)) as client:
    client.get(url)
    with client.stream("GET", url) as response:
        for socket in agent.sockets():
            print(socket.id, socket.state, socket.request_count, socket.http_version)
        response.read()

    print("changed:", agent.status_changed, agent.status_changed)
    client.get(url)
    print("changed:", agent.status_changed, agent.status_changed)
    print(agent.status())
