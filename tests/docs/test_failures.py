"""The page "What can go wrong" describes every failure correctly: each row is made to happen, and compared."""

from __future__ import annotations

import errno
import re
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

import anyio
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._rules.resend import MAX_GOAWAYS
from httpx_agent.testing import FIN, HANG, ChaosServer, Connection, Gate, Network, Script, http2, respond
from tests.docs.test_examples import _page, rows
from tests.support.raw import raw_server
from tests.support.servers import Certificates, Proxy, Server, Socks
from tests.support.tls import Choosy, Spoiling, alert

TABLES = (
    "Before a socket is open",
    "While the request is in flight",
    "When a used socket turns out to be dead",
    "When a server ends an HTTP/2 connection",
)
ROWS = {row[0]: row[1:] for table in TABLES for row in rows(_page("failures"), table)}

#: For what is meant to take too long; everything else has its time, however busy the machine is.
BRIEF = httpx.Timeout(0.05, pool=10)


class Stage:
    """A server and an agent; what happens to one request, and whether the server saw it."""

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates
        self.error: BaseException | None = None
        self.response: httpx.Response | None = None
        self.seen = 0

    @contextmanager
    def server(self, *, tls: bool = False) -> Iterator[ChaosServer]:
        with ChaosServer(ssl_context=self.certificates.server() if tls else None) as server:
            yield server

    def ask(
        self, url: str, method: str = "GET", *, agent: Agent | None = None, close: bool = True, **kwargs: Any
    ) -> None:
        agent = agent or Agent(verify=self.certificates.client())
        with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
            try:
                self.response = client.request(method, url, **{"timeout": 10, **kwargs})
            except httpx.HTTPError as error:
                self.error = error
        if close:
            agent.close()

    def ask_for(self, fault: Any, method: str = "GET", **kwargs: Any) -> None:
        """One request, which meets a fault."""
        with self.server() as server:
            server.next(fault)
            self.ask(server.url, method, **kwargs)
            if isinstance(self.error, httpx.ReadTimeout):  # the server may be later than that
                server.wait_for(lambda: server.requests)
            self.seen = len(server.requests)

    def ask_twice(self, method: str = "POST", *, agent: Agent | None = None, **kwargs: Any) -> None:
        """The second one meets a socket that died a moment ago."""
        agent = agent or Agent()
        with self.server() as server, httpx.Client(transport=AgentTransport(agent=agent)) as client:
            client.get(server.url)
            server.next("fin")
            try:
                self.response = client.request(method, server.url, **kwargs)
            except httpx.HTTPError as error:
                self.error = error
            self.seen = len(server.requests) - 1
        agent.close()


def pool(stage: Stage) -> None:
    agent = Agent(max_sockets=1)
    with stage.server() as server, httpx.Client(transport=AgentTransport(agent=agent)) as client:
        with client.stream("GET", server.url_of("hang-in-body")):
            stage.ask(server.url, agent=agent, close=False, timeout=httpx.Timeout(5, pool=0.05))
        stage.seen = len(server.requests) - 1
    agent.close()


def closed(stage: Stage, *, waiting: bool) -> None:
    """The agent is closed while a request waits for its socket, or for its response."""
    network = Network(Script(HANG))
    agent = Agent(max_sockets=1, **network.options)
    with ThreadPoolExecutor() as threads:
        with httpx.Client(transport=AgentTransport(agent=agent), timeout=10) as client:
            first = threads.submit(client.get, "http://a.test/")
            network.wait_for(lambda: network.request_count == 1)
            second = threads.submit(client.get, "http://a.test/")
            while not agent.status().requests:
                time.sleep(0.001)
            agent.close()
            stage.error = (second if waiting else first).exception()
    stage.seen = 0 if waiting else network.request_count


def closed_while_read(stage: Stage) -> None:
    with stage.server() as server, ThreadPoolExecutor() as threads:
        server.next("hang-in-body")
        agent = Agent()
        with (
            httpx.Client(transport=AgentTransport(agent=agent), trust_env=False, timeout=10) as client,
            client.stream("GET", server.url) as response,
        ):
            reading = threads.submit(response.read)
            (socket,) = agent._dispatcher._sockets.values()
            while not socket.wire.is_in_use():
                time.sleep(0.001)
            response.close()
            stage.error = reading.exception()
        stage.seen = len(server.requests)


def no_descriptor(stage: Stage) -> None:
    network = Network(default=Script(connect=OSError(errno.EMFILE, "Too many open files")))
    stage.ask("http://a.test/", agent=Agent(**network.options))
    assert len(network.connections) == 2


def refused(stage: Stage) -> None:
    with stage.server() as server, server.refusing():
        stage.ask(server.url)


def no_name_server(stage: Stage) -> None:
    speak = threading.Event()
    system = socket.getaddrinfo

    def wait(host: Any, port: Any, family: int = 0, kind: int = 0, protocol: int = 0, flags: int = 0) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return system(host, port, family, kind, protocol, flags)
        speak.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    with mock.patch.object(socket, "getaddrinfo", side_effect=wait):
        stage.ask("http://silent.invalid/", timeout=BRIEF)
        speak.set()


def refused_everywhere(stage: Stage) -> None:
    """A name with addresses of this machine only."""
    system = socket.getaddrinfo

    def find(host: Any, port: Any, family: int = 0, kind: int = 0, protocol: int = 0, flags: int = 0) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return system(host, port, family, kind, protocol, flags)
        return [entry for number in range(1, 6) for entry in system(f"127.0.0.{number}", port, family, kind)]

    with socket.socket() as taken, mock.patch.object(socket, "getaddrinfo", side_effect=find):
        taken.bind(("", 0))
        stage.ask(f"http://many.invalid:{taken.getsockname()[1]}/")


def differently(stage: Stage) -> None:
    """What a name with broken IPv6 comes to, where nobody listens either."""
    system = socket.getaddrinfo

    def find(host: Any, port: Any, family: int = 0, kind: int = 0, protocol: int = 0, flags: int = 0) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return system(host, port, family, kind, protocol, flags)
        return [entry for each in ("::1", "127.0.0.1") for entry in system(each, port, family, kind)]

    connect = socket.socket.connect_ex

    def connect_ex(sock: socket.socket, address: Any) -> int:
        return errno.ENETUNREACH if sock.family == socket.AF_INET6 else connect(sock, address)

    with socket.socket() as taken, mock.patch.object(socket, "getaddrinfo", side_effect=find):
        taken.bind(("127.0.0.1", 0))
        with mock.patch.object(socket.socket, "connect_ex", connect_ex):
            stage.ask(f"http://two.invalid:{taken.getsockname()[1]}/")


def other_family(stage: Stage) -> None:
    system = socket.getaddrinfo

    def find(host: Any, port: Any, family: int = 0, kind: int = 0, protocol: int = 0, flags: int = 0) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return system(host, port, family, kind, protocol, flags)
        return system("::1", port, family, kind)

    with mock.patch.object(socket, "getaddrinfo", side_effect=find):
        stage.ask("http://six.invalid/", agent=Agent(local_address="127.0.0.1"))


def not_ours(stage: Stage) -> None:
    stage.ask("http://127.0.0.1:9/", agent=Agent(local_address="192.0.2.1"))


def no_socks(stage: Stage) -> None:
    with raw_server(lambda peer: peer.sock.recv(100)) as url:
        stage.ask("http://a.test/", agent=Agent(proxy=url.rstrip("/").replace("http:", "socks5:")))


def full_queue(stage: Stage) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/s")
        listener.listen(0)
        clients = []
        with suppress(BlockingIOError):
            while True:
                clients.append(socket.socket(socket.AF_UNIX))
                clients[-1].setblocking(False)
                clients[-1].connect(f"{folder}/s")
        stage.ask("http://unix/", agent=Agent(uds=f"{folder}/s"), timeout=BRIEF)
        for client in clients:
            client.close()


def proxy_is_down(stage: Stage) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        stage.ask("https://a.test/", agent=Agent(proxy=f"http://127.0.0.1:{taken.getsockname()[1]}"))


def no_answer(stage: Stage) -> None:
    with stage.server() as server, server.unresponsive():
        stage.ask(server.url, timeout=BRIEF)


def handshake(stage: Stage, *steps: Any) -> None:
    with stage.server(tls=True) as server:
        server.next_connection(*steps)
        stage.ask(server.url, timeout=BRIEF if HANG in steps else 10)


def ask_with_session(stage: Stage, server: Server, url: str, method: str = "GET") -> None:
    """The second request is one on a new socket, which offers a TLS session."""
    server.raw["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    agent = Agent(verify=stage.certificates.client(), max_cached_sessions=9)
    stage.ask(url, agent=agent, close=False)
    stage.response = None
    stage.ask(url, method, agent=agent)


def session_refused(stage: Stage) -> None:
    with Choosy(alert, tls=stage.certificates.server()) as server:
        ask_with_session(stage, server, server.url)
        assert server.refused == 1


def refused_afterwards(stage: Stage, method: str) -> None:
    with Server(tls=stage.certificates.server()) as server, Spoiling(server) as proxy:
        ask_with_session(stage, server, f"https://{proxy.netloc}/", method)
        assert proxy.spoiled == 1


def not_trusted(stage: Stage) -> None:
    with stage.server(tls=True) as server:
        stage.ask(server.url, agent=Agent(verify=Certificates().client()))


def proxy_refuses(stage: Stage) -> None:
    with stage.server(tls=True) as server, Proxy(credentials=("user", "pass")) as proxy:
        stage.ask(server.url, agent=Agent(proxy=proxy.url))
        stage.seen = len(server.requests)


def socks_refuses(stage: Stage) -> None:
    with stage.server() as server, Socks(credentials=("user", "pass")) as proxy:
        stage.ask(server.url, agent=Agent(proxy=f"socks5://user:wrong@{proxy.netloc}"))
        stage.seen = len(server.requests)


def no_write(stage: Stage) -> None:
    """The server takes the head, and nothing of the body."""
    network = Network(Script(writes={1: HANG}))
    stage.ask("http://a.test/", "POST", content=b"x", agent=Agent(**network.options), timeout=BRIEF)
    stage.seen = len(network.connections[0].heads)


def no_address(stage: Stage) -> None:
    """The system's answer, at once and whatever the surroundings."""
    error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with mock.patch.object(socket, "getaddrinfo", side_effect=error):
        stage.ask("http://nowhere.invalid/")


def died_before(stage: Stage) -> None:
    network = Network(Script(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    agent = Agent(**network.options)
    with httpx.Client(transport=AgentTransport(agent=agent)) as client:
        client.get("http://a.test/")
        network.connections[0].fin()
        stage.response = client.post("http://a.test/")
        assert len(network.connections[0].requests) == 1
    assert not stage.response.extensions["agent"].retried
    agent.close()


def way_gone(stage: Stage) -> None:
    network = Network(*[Script(respond(), then=HANG)] * 2)
    agent = Agent(**network.options)
    with httpx.Client(transport=AgentTransport(agent=agent)) as client:
        with client.stream("GET", "http://a.test/") as first:
            client.get("http://a.test/")
            first.read()
        with pytest.raises(httpx.ReadTimeout) as caught:
            client.get("http://a.test/", timeout=BRIEF)
        stage.error = caught.value
        assert agent.sockets() == ()
    agent.close()


def frame(kind: int, payload: bytes, stream: int = 0) -> bytes:
    """An HTTP/2 frame without flags (RFC 9113, 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + stream.to_bytes(4, "big") + payload


RST_STREAM, SETTINGS, GOAWAY = 3, 4, 7


def goaway(last_stream: int) -> bytes:
    return frame(GOAWAY, last_stream.to_bytes(4, "big") + bytes(4))


def http2_ends(stage: Stage, end: bytes, method: str = "GET", *, streamed: bool = False) -> None:
    """The second of two requests on one connection; the server says something, and then no more."""
    network = Network(http2(hold=Gate()), http2())
    agent = Agent(http2=True, **network.options)

    async def body() -> AsyncIterator[bytes]:
        yield b"once"

    async def first(client: httpx.AsyncClient) -> None:
        with suppress(httpx.TransportError):
            await client.get("https://a.test/")

    async def main() -> None:
        async with httpx.AsyncClient(transport=AgentTransport(agent=agent), timeout=10) as client:
            async with anyio.create_task_group() as group:
                group.start_soon(first, client)
                while not (network.connections and network.connections[0]._later):
                    await anyio.sleep(0.001)
                group.start_soon(second, client)
                while len(network.connections[0]._later) < 2:  # both are there as a whole
                    await anyio.sleep(0.001)
                network.connections[0].send(end)
                if end[3] == GOAWAY:
                    network.connections[0].fin()
                else:
                    await done.wait()
                    await agent.aclose()

    async def second(client: httpx.AsyncClient) -> None:
        try:
            stage.response = await client.request(
                method,
                "https://a.test/",
                content=body() if streamed else b"again",
                headers={"Idempotency-Key": "1"} if streamed else {},
            )
        except httpx.HTTPError as error:
            stage.error = error
        done.set()

    done = anyio.Event()
    anyio.run(main)
    agent.close()
    stage.seen = 0 if end == goaway(1) else 1


def http2_ends_again_and_again(stage: Stage) -> None:
    """Each connection ends before it has begun with its first request."""

    def refuse(connection: Connection, data: bytes) -> bytes:
        return frame(SETTINGS, b"") if data.startswith(b"PRI") else goaway(0)

    network = Network(default=Script(raw=refuse, alpn="h2"))
    stage.ask("https://a.test/", agent=Agent(http2=True, **network.options))
    assert len(network.connections) == MAX_GOAWAYS + 1


FAILURES: dict[str, Callable[[Stage], None]] = {
    "no socket comes free within the pool timeout": pool,
    "the agent is closed while the request waits or connects": lambda stage: closed(stage, waiting=True),
    "the process has reached its limit on open files": no_descriptor,
    "the name has no address": no_address,
    "no name server answers": no_name_server,
    "nothing listens at the address": refused,
    "nothing listens at any address of the name": refused_everywhere,
    "the addresses of the name fail in different ways": differently,
    "the name has no address of the family of `local_address`": other_family,
    "`local_address` is not an address of this machine": not_ours,
    "the queue of the Unix socket stays full": full_queue,
    "the attempt to connect gets no answer": no_answer,
    "the TLS handshake gets no answer": lambda stage: handshake(stage, HANG),
    "the certificate is not trusted, or not valid for the host": not_trusted,
    "the server ends the TLS handshake": lambda stage: handshake(stage, FIN),
    "the server ends a TLS handshake that offered to resume a session": session_refused,
    "the proxy is down": proxy_is_down,
    "the proxy refuses": proxy_refuses,
    "a SOCKS proxy refuses": socks_refuses,
    "the supposed SOCKS proxy hangs up, or is not one": no_socks,
    "the scheme of the URL is not http, https, ws or wss": lambda stage: stage.ask("gopher://a.test/"),
    "a header value cannot be sent": lambda stage: stage.ask_for("hang", headers={"X-Key": "a\n"}),
    "a write of the request makes no progress": no_write,
    "the body is shorter than its Content-Length": lambda stage: stage.ask_for(
        "early", "POST", content=b"x", headers={"Content-Length": "9"}
    ),
    "the server sends nothing": lambda stage: stage.ask_for("hang", timeout=BRIEF),
    "the server stalls in the middle of its response": lambda stage: stage.ask_for("hang-in-body", timeout=BRIEF),
    "the server hangs up without answering": lambda stage: stage.ask_for("fin"),
    "the server resets the connection": lambda stage: stage.ask_for("reset"),
    "the server hangs up in the middle of a body of known length": lambda stage: stage.ask_for("fin-in-body"),
    "the server hangs up in the middle of a chunked body": lambda stage: stage.ask_for("fin-in-chunk"),
    "the answer is not HTTP": lambda stage: stage.ask_for("garbage"),
    "the head, the line of a chunk, or the trailers exceed 100 KiB": lambda stage: stage.ask_for("huge-header"),
    "more than 512 KiB of interim responses (1xx) precede the response": lambda stage: stage.ask_for("interim-flood"),
    "the server resumes a TLS session, then ends the connection with an alert; the method is idempotent": (
        lambda stage: refused_afterwards(stage, "GET")
    ),
    "the server resumes a TLS session, then ends the connection with an alert; the method is not idempotent": (
        lambda stage: refused_afterwards(stage, "POST")
    ),
    "the agent is closed while the request is in flight": lambda stage: closed(stage, waiting=False),
    "the response is closed while another task or thread is reading it": closed_while_read,
    "it died before the request got it": died_before,
    "it died after that, and the method is idempotent": lambda stage: stage.ask_twice("GET"),
    "it died after that, and the method is not idempotent": lambda stage: stage.ask_twice(),
    "it died after that, and the body cannot be sent again": lambda stage: stage.ask_twice(
        "PUT", content=iter([b"once"])
    ),
    "it died after that, and `retry_stale_sockets` is off": lambda stage: stage.ask_twice(
        "GET", agent=Agent(retry_stale_sockets=False)
    ),
    "its network path is gone, and nothing reports it": way_gone,
    "it says that it did not process the request": lambda stage: http2_ends(stage, goaway(1), "POST"),
    f"it says so on {MAX_GOAWAYS + 1} connections in a row": http2_ends_again_and_again,
    "it may have processed it, and the method is idempotent": lambda stage: http2_ends(stage, goaway(3)),
    "it may have processed it, and the method is not idempotent": lambda stage: http2_ends(stage, goaway(3), "POST"),
    "it may have processed it, and the body cannot be sent again": lambda stage: http2_ends(
        stage, goaway(3), streamed=True
    ),
    "it resets only this request": lambda stage: http2_ends(stage, frame(RST_STREAM, bytes([0, 0, 0, 2]), 3)),
}


@pytest.mark.filterwarnings("ignore:`(verify|cert)=:DeprecationWarning")
@pytest.mark.parametrize("row", rows(_page("failures"), "When an agent is created or changed"), ids=lambda row: row[0])
def test_a_row_says_what_is_told_at_once(row: list[str]) -> None:
    name, _, message = row[1].partition("<br>")
    with pytest.raises(Exception, match=re.escape(message)) as caught:
        exec(row[0].strip("`"), {"Agent": Agent, "AgentTransport": AgentTransport})
    assert f"`{type(caught.value).__name__}`" == name
    assert str(caught.value) == message


def test_every_row_can_be_made_to_happen() -> None:
    assert list(ROWS) == list(FAILURES)


@pytest.mark.parametrize("what", FAILURES)
def test_a_row_says_what_happens(what: str, certificates: Certificates) -> None:
    told, reached, again = ROWS[what]
    stage = Stage(certificates)
    FAILURES[what](stage)
    assert reached == "perhaps" or (stage.seen > 0) == (reached == "yes")
    if told.startswith("none: "):
        assert stage.response is not None
        assert stage.response.text == "ok"
        assert stage.response.extensions["agent"].retried == ("RequestInfo.retried" in told)
        assert stage.response.extensions["agent"].retried == again.startswith(("once", "up to"))
        return
    name, _, message = told.partition("<br>")
    assert stage.error is not None
    assert f"`{type(stage.error).__name__}`" == name
    said = re.sub(r"^[A-Z]+ [a-z]+://\S+: ", "", str(stage.error))
    assert re.fullmatch(".+".join(map(re.escape, message.split("…"))) or ".+", said), said
