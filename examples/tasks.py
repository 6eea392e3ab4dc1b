"""A transport travels with each task; the tasks of one worker share its sockets."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import httpx

from httpx_agent import AgentTransport, request_info
from server import serve


def task(transport: AgentTransport, url: str) -> str:
    with httpx.Client(transport=transport) as client:
        info = request_info(client.get(url))
    assert info is not None
    return f"socket {info.socket_id}, reused: {info.reused}"


if __name__ == "__main__":
    transport = AgentTransport(max_sockets=10)
    workers = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with serve() as url, workers:
        for _ in range(3):
            print(workers.submit(task, transport, url).result())
