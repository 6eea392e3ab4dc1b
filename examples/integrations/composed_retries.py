"""Retries around an agent."""

import httpx
from httpx_retries import Retry, RetryTransport

from httpx_agent import Agent, AgentTransport
from server import refusal, serve

agent = Agent(max_sockets=10)
transport = RetryTransport(
    transport=AgentTransport(agent=agent),
    retry=Retry(total=3, backoff_factor=0.01),
)
with agent, serve() as url, httpx.Client(transport=transport) as client:
    response = client.get(url)
    print(response.status_code, "attempts:", agent.status().create_socket_count)
    try:
        with refusal() as nobody:
            client.get(nobody)
    except httpx.ConnectError:
        print("refused, attempts:", agent.status().create_socket_error_count)
