"""Closing clients and agents: who closes the sockets."""

import httpx

from httpx_agent import Agent, AgentTransport
from server import serve

with serve() as url:
    # --8<-- [start:owned]
    transport = AgentTransport()  # creates an agent of its own
    with httpx.Client(transport=transport) as client:
        client.get(url)
    print("its own agent:", transport.agent)
    # --8<-- [end:owned]

    # --8<-- [start:borrowed]
    agent = Agent()
    with httpx.Client(transport=AgentTransport(agent=agent)) as client:
        client.get(url)
    print("a borrowed agent:", agent)
    agent.close()
    print("closed:", agent)
    # --8<-- [end:borrowed]
