"""After 101 Switching Protocols the socket belongs to the caller."""

import httpx

from httpx_agent import AgentTransport
from server import serve

transport = AgentTransport()
agent = transport.agent
with serve() as url, httpx.Client(transport=transport) as client:
    headers = {"Connection": "upgrade", "Upgrade": "echo"}
    with client.stream("GET", f"{url}/upgrade", headers=headers) as response:
        stream = response.extensions["network_stream"]
        stream.write(b"ping")
        print(response.status_code, stream.read(4, timeout=1))
        print(agent, agent.status().detached_socket_count)
