"""How long a socket may stay free, and how old it may grow."""

import time

import httpx

from httpx_agent import Agent, AgentTransport
from server import serve

with serve() as url:
    agent = Agent(free_socket_timeout=15, socket_active_ttl=60)
    with agent, httpx.Client(transport=AgentTransport(agent=agent)) as client:
        # --8<-- [start:smallest]
        for path in ("/", "/hint/5", "/hint/60"):
            client.get(url + path)
            (socket,) = agent.sockets()
            assert socket.expires_in is not None
            print(f"{path}: expires in {socket.expires_in:.0f} s")
        # --8<-- [end:smallest]

    # --8<-- [start:timer]
    agent = Agent(free_socket_timeout=0.5)
    with agent, httpx.Client(transport=AgentTransport(agent=agent)) as client:
        client.get(url)
        print("free:", len(agent.sockets()))
        while agent.sockets():  # no request is needed
            time.sleep(0.01)
        print("closed by a timer:", agent.status().timeout_socket_count)
    # --8<-- [end:timer]

    # --8<-- [start:ttl]
    agent = Agent(socket_active_ttl=0.1)
    with agent, httpx.Client(transport=AgentTransport(agent=agent)) as client:
        response = client.get(
            f"{url}/wait/0.2"
        )  # older than its TTL at the end, but not cut off
        print(response.status_code, "open sockets afterwards:", len(agent.sockets()))
    # --8<-- [end:ttl]
