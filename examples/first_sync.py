"""A client whose sockets are managed by an agent."""

# --8<-- [start:use]
import httpx

from httpx_agent import AgentTransport


def main(url: str) -> None:
    transport = AgentTransport(max_sockets=10, free_socket_timeout=15)
    with httpx.Client(transport=transport) as client:
        for _ in range(2):
            response = client.get(url)
            print(response.status_code, response.extensions["agent"].reused)
            # --8<-- [end:use]


if __name__ == "__main__":
    from server import serve

    with serve() as url:
        main(url)
