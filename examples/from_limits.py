"""httpx.Limits, and what an agent makes of them."""

import httpx

from httpx_agent import Agent

# --8<-- [start:mapping]
limits = httpx.Limits(
    max_connections=100, max_keepalive_connections=20, keepalive_expiry=5
)
agent = Agent(limits=limits, max_sockets=10)
print("max_total_sockets =", agent.max_total_sockets)
print("max_total_free_sockets =", agent.max_total_free_sockets)
print("free_socket_timeout =", agent.free_socket_timeout)
print("max_sockets =", agent.max_sockets)
# --8<-- [end:mapping]
