"""The second of the two Node programs: one request, and its agent's options."""

import httpx

from httpx_agent import AgentTransport
from server import serve

transport = AgentTransport()
agent = transport.agent
shown = ("keep_alive", "free_socket_timeout", "timeout", "socket_active_ttl")

with serve() as url, httpx.Client(transport=transport) as client:
    print("Agent options:", {name: getattr(agent, name) for name in shown})
    response = client.get(f"{url}/hint/5")
    print("Status code:", response.status_code)
    print("Headers:", dict(response.headers))
