"""The server closes a socket just as it is reused."""

import httpx

from httpx_agent import AgentTransport
from server import serve

with serve() as url, httpx.Client(transport=AgentTransport()) as client:
    client.get(f"{url}/drop")
    # The server closes the socket instead of answering.
    response = client.get(f"{url}/drop")
    info = response.extensions["agent"]
    print(response.status_code, f"retried: {info.retried}, socket: {info.socket_id}")

    try:
        client.post(f"{url}/drop")
    except httpx.RemoteProtocolError as error:
        print(error)

    client.get(f"{url}/drop")
    response = client.post(f"{url}/drop", headers={"Idempotency-Key": "7c1e"})
    print(response.status_code, f"retried: {response.extensions['agent'].retried}")
