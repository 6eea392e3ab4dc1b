"""What an agent reports about itself."""

import httpx

from httpx_agent import AgentTransport
from server import serve

transport = AgentTransport()
agent = transport.agent
with serve() as url, httpx.Client(transport=transport) as client:
    client.get(url)
    with client.stream("GET", url) as response:
        for socket in agent.sockets():
            print(socket.id, socket.state, socket.request_count, socket.http_version)
        response.read()

    print("changed:", agent.status_changed, agent.status_changed)
    client.get(url)
    print("changed:", agent.status_changed, agent.status_changed)
    print(agent.status())
