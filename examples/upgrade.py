"""After 101 Switching Protocols the socket is the caller's."""

import httpx
from server import serve

from httpx_agent import Agent, AgentTransport

with serve() as url, Agent() as agent, httpx.Client(transport=AgentTransport(agent=agent)) as client:
    with client.stream("GET", f"{url}/upgrade", headers={"Connection": "upgrade", "Upgrade": "echo"}) as response:
        stream = response.extensions["network_stream"]
        stream.write(b"ping")
        print(response.status_code, stream.read(4, timeout=1))
        print(agent, agent.status().detached_socket_count)
