"""httpx.Limits, and what an agent makes of them."""

import httpx

from httpx_agent import Agent

# --8<-- [start:mapping]
limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=5)
agent = Agent(limits=limits, max_sockets=10)
for name in ("max_total_sockets", "max_total_free_sockets", "free_socket_timeout", "max_sockets"):
    print(f"{name} = {getattr(agent, name)}")
# --8<-- [end:mapping]
