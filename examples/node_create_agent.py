"""The first of the two Node programs: two agents, and a connection with each."""

import httpx

from httpx_agent import Agent, AgentTransport
from server import serve

agent = Agent(keep_alive=False)  # Node's default
alive_agent = Agent(max_sockets=5)  # keep_alive=True is the default here

print("agent:", agent.keep_alive, agent.max_sockets, end=" ")
print(agent.max_free_sockets, agent.scheduling)
print("alive agent:", alive_agent.keep_alive, alive_agent.max_sockets)

with serve() as url:
    for name, each in {"agent": agent, "alive agent": alive_agent}.items():
        with each, httpx.Client(transport=AgentTransport(agent=each)) as client:
            client.get(url)
            print(f"made a connection with {name}, afterwards {each}")
