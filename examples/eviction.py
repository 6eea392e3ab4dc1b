"""At the total limit, a free socket makes room for another origin."""

import httpx

from httpx_agent import Agent, AgentTransport
from server import serve

with serve() as one, serve() as other:
    agent = Agent(max_total_sockets=1)
    with agent, httpx.Client(transport=AgentTransport(agent=agent)) as client:
        client.get(one)
        print([(socket.id, socket.origin == one) for socket in agent.sockets()])
        client.get(other)
        print([(socket.id, socket.origin == one) for socket in agent.sockets()])
