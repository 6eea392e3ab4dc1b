"""An exception at every line of a sync request in turn, as a signal handler may raise it.

The caller gets his own exception; what was half done is finished or undone: the books add up, no lock is held, nobody
waits for ever, no slot is lost, and a further request works.

The normal run takes a sample of the places; `--whole` takes each.
"""

from __future__ import annotations

import gc
import itertools
import signal
import ssl
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import FIN, HANG, REFUSED, RST, TIMEOUT, Network, Script, assert_no_leaks, chunked, respond
from tests.support.interrupting import PACKAGE, Interrupted, Interruption, SoftLimit, in_another_thread
from tests.support.servers import Certificates, Server

LIBRARIES = tuple(str(Path(library.__file__).parent) for library in (httpx, httpcore))
SAMPLE = 12
"""In so many places, about, the normal run interrupts each case; in each case in others."""

A, B = "http://a.test/", "http://b.test/"


class Backend(httpcore.NetworkBackend):
    """The scripted network's, and which of its streams anybody still has: Python closes a socket that nobody has."""

    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner
        self._streams: list[weakref.ref[Any]] = []

    def connect_tcp(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        stream = self._inner.connect_tcp(*args, **options)
        self._streams.append(weakref.ref(stream))
        return stream

    def open_streams(self) -> int:
        return sum((stream := known()) is not None and stream.connection.is_open for known in self._streams)


@dataclass
class Scene:
    """What a case sets up, and what it leaves to be looked at."""

    agent: Agent
    client: httpx.Client
    url: str
    network: Network | None = None
    backend: Backend | None = None
    threads: list[threading.Thread] = field(default_factory=list)
    others: list[Any] = field(default_factory=list)
    """What other threads got, or raised."""
    prepared: Any = None

    def beside(self, function: Callable[[], Any]) -> None:
        """Call in another thread."""

        def call() -> None:
            try:
                self.others.append(function())
            except Exception as error:
                self.others.append(error)

        thread = threading.Thread(target=call, daemon=True)
        self.threads.append(thread)
        thread.start()

    def wait_in_queue(self, url: str, number: int = 1) -> None:
        """Have another thread's request wait."""
        self.beside(lambda: self.client.get(url, timeout=5).text)
        wait_until(lambda: sum(self.agent.status().requests.values()) == number)


def wait_until(predicate: Callable[[], Any]) -> None:
    for _ in range(5000):
        if predicate():
            return
        time.sleep(0.0005)
    raise AssertionError("condition not met")


@dataclass(frozen=True)
class Case:
    """One thing that is interrupted.

    Attributes:
        act: What is interrupted.
        prepare: What comes before.
        options: Of the agent.
        script: What the server does.
        after: What must hold in the end, besides.
        needs: What the network must be: scripted where a script says more than `respond()`.
    """

    act: Callable[[Scene, Any], object]
    prepare: Callable[[Scene], object] = lambda scene: None
    options: dict[str, Any] = field(default_factory=dict)
    scripts: Callable[[], tuple[Script, ...]] = lambda: ()
    after: Callable[[Scene], object] = lambda scene: None
    scripted: bool = False
    fails: bool = False
    """Without an interruption it raises, which is as it should be."""


def get(scene: Scene, _: Any = None) -> Any:
    return scene.client.get(scene.url, timeout=5)


def post(scene: Scene, _: Any = None) -> Any:
    return scene.client.post(scene.url, content=iter([b"one", b"two"]), timeout=5)


def begin(scene: Scene, url: str | None = None) -> httpx.Response:
    """A response whose body is not read yet."""
    request = scene.client.build_request("GET", url or scene.url, timeout=5)
    return scene.client.send(request, stream=True)


def stream(scene: Scene, _: Any) -> None:
    with scene.client.stream("GET", scene.url, timeout=5) as response:
        for _part in response.iter_bytes(1):
            pass


def stream_and_leave(scene: Scene, _: Any) -> None:
    with scene.client.stream("GET", scene.url, timeout=5) as response:
        next(response.iter_bytes(1))


def drop(scene: Scene, held: list[Any]) -> None:
    held.clear()


def respond_to(scene: Scene) -> httpx.Response:
    """A response that goes when it is dropped, and not when the collector comes: it has not passed a client."""
    return scene.client._transport.handle_request(scene.client.build_request("GET", scene.url, timeout=5))


def hold_and_let_wait(scene: Scene) -> httpx.Response:
    held = begin(scene)
    scene.wait_in_queue(scene.url)
    return held


def hold_and_let_another_origin_wait(scene: Scene) -> httpx.Response:
    held = begin(scene)
    scene.wait_in_queue(B)
    return held


def hold_and_read_later(scene: Scene) -> None:
    """The slot comes free when the one who is interrupted has begun to wait, or has been thrown out."""
    held = begin(scene)
    over = threading.Event()
    scene.others.append(over)

    def let_go() -> str:
        while not over.wait(0.0002) and not sum(scene.agent.status().requests.values()):
            pass
        held.read()
        return "ok"

    scene.beside(let_go)


def got_ok(scene: Scene) -> None:
    [other] = [other for other in scene.others if not isinstance(other, threading.Event)]
    assert isinstance(other, str), other


def was_refused_or_served(scene: Scene) -> None:
    [other] = scene.others
    assert isinstance(other, (httpx.ConnectError, str)), other


def raise_limit(scene: Scene, _: Any) -> None:
    scene.agent.max_sockets = 2


def look(scene: Scene, _: Any) -> None:
    scene.agent.status()
    scene.agent.sockets()
    repr(scene.agent)
    _ = scene.agent.status_changed


def one_more(scene: Scene) -> Any:
    return get(scene).text


def two_free(scene: Scene) -> None:
    held = [begin(scene), begin(scene, B)]
    for response in held:
        response.read()


def switch(scene: Scene, _: Any) -> None:
    headers = {"Connection": "upgrade", "Upgrade": "echo"}
    with scene.client.stream("GET", scene.url, headers=headers, timeout=5) as response:
        assert response.status_code == 101


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
PARTS = chunked(b"one", b"two")

CASES: dict[str, Case] = {
    "a new socket": Case(get),
    "a used socket": Case(get, one_more),
    "a body in parts": Case(post, scripts=lambda: (Script(PARTS, PARTS), Script(PARTS))),
    "a stream": Case(stream, scripts=lambda: (Script(PARTS), Script(PARTS))),
    "a stream that is left": Case(stream_and_leave, one_more, scripts=lambda: (Script(respond(), PARTS),)),
    "a stream that is left, with more to come": Case(
        stream_and_leave, one_more, scripts=lambda: (Script(respond(), chunked(b"one", HANG, b"two")),), scripted=True
    ),
    "a response that is dropped": Case(drop, lambda scene: [respond_to(scene)]),
    "a socket handed over": Case(lambda scene, held: held.read(), hold_and_let_wait, {"max_sockets": 1}, after=got_ok),
    "a socket lost to one who waits": Case(
        lambda scene, held: held.close(),
        hold_and_let_wait,
        {"max_sockets": 1},
        scripts=lambda: (Script(chunked(b"one", HANG, b"two")), Script()),
        after=got_ok,
        scripted=True,
    ),
    "a slot handed over": Case(
        lambda scene, held: held.read(),
        hold_and_let_another_origin_wait,
        {"max_total_sockets": 1},
        after=got_ok,
        scripted=True,
    ),
    "a socket closed for another": Case(
        lambda scene, _: scene.client.get(B, timeout=5), one_more, {"max_total_sockets": 1}, scripted=True
    ),
    "waiting, and being granted": Case(get, hold_and_read_later, {"max_sockets": 1}, after=got_ok),
    "waiting in vain": Case(
        lambda scene, _: scene.client.get(scene.url, timeout=httpx.Timeout(5, pool=0.001)),
        lambda scene: [begin(scene)],
        {"max_sockets": 1},
        fails=True,
    ),
    "a connect that fails": Case(get, scripts=lambda: (Script(connect=REFUSED),), scripted=True, fails=True),
    "a connect that is tried again": Case(
        get, options={"retries": 1}, scripts=lambda: (Script(connect=TIMEOUT),), scripted=True
    ),
    "no descriptor": Case(
        get,
        two_free,
        scripts=lambda: (Script(), Script(), Script(connect=OSError(24, "Too many open files"))),
        scripted=True,
    ),
    "a timeout": Case(get, scripts=lambda: (Script([respond()[:9], TIMEOUT]),), scripted=True, fails=True),
    "a reset in a body": Case(get, scripts=lambda: (Script([respond()[:-1], RST]),), scripted=True, fails=True),
    "a stale socket": Case(
        get,
        lambda scene: (one_more(scene), scene.network and scene.network.connections[0].fin()),
        scripted=True,
    ),
    "a socket that dies when used": Case(get, one_more, scripts=lambda: (Script(respond(), FIN),), scripted=True),
    "a response that ends the socket": Case(
        get, one_more, scripts=lambda: (Script(respond(), respond(headers=[("Connection", "close")])),), scripted=True
    ),
    "another protocol": Case(switch, scripts=lambda: (Script(SWITCH),), scripted=True),
    "the agent is closed": Case(lambda scene, _: scene.agent.close(), two_free, scripted=True),
    "the agent is closed while one waits": Case(
        lambda scene, _: scene.agent.close(), hold_and_let_wait, {"max_sockets": 1}, after=was_refused_or_served
    ),
    "a limit raised while one waits": Case(raise_limit, hold_and_let_wait, {"max_sockets": 1}, after=got_ok),
    "looking": Case(look, two_free, scripted=True),
}


@contextmanager
def scene_of(case: Case, ground: Ground) -> Iterator[Scene]:
    if ground.server is None:
        network = Network(*case.scripts())
        backend = Backend(network.options["network_backend"])
        options = network.options | {"network_backend": backend, "verify": CONTEXT} | case.options
        agent, url = Agent(**options), A
    else:
        network = backend = None
        agent, url = Agent(**ground.options, **case.options), f"{ground.server.url}/echo"
    client = httpx.Client(transport=AgentTransport(agent=agent), trust_env=False)
    scene = Scene(agent, client, url, network, backend)
    try:
        yield scene
    finally:
        agent.close()
        client.close()


CONTEXT = ssl.create_default_context()


@dataclass(frozen=True)
class Ground:
    server: Server | None
    options: dict[str, Any]


def forget_frames(error: BaseException | None) -> BaseException | None:
    """What a finaliser raised holds its frame, and with it what was to be finalised."""
    return error.with_traceback(None) if error is not None else None


def interrupt(case: Case, ground: Ground, at: int, error: BaseException, **options: Any) -> Interruption:
    """Play a case, interrupted at one place; look at what is left."""
    swallowed: list[Any] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda found: swallowed.append(forget_frames(found.exc_value))
    try:
        with scene_of(case, ground) as scene:
            scene.prepared = case.prepare(scene)
            interruption = Interruption(at, error, **options)
            raised: BaseException | None = None
            gc.collect()  # what an earlier scene left must not be finalised in this one
            gc.disable()
            try:
                with interruption:
                    case.act(scene, scene.prepared)
            except BaseException as caught:
                raised = caught
            finally:
                gc.enable()
            try:
                check_raised(case, interruption, raised, error, swallowed)
                raised = None
                error.__traceback__ = error.__context__ = error.__cause__ = None
                check(case, scene, interruption)
            except BaseException as failed:
                failed.add_note(f"interrupted at {interruption.where}, the {at}th")
                raise
    finally:
        sys.unraisablehook = before
    return interruption


def check_raised(
    case: Case, interruption: Interruption, raised: BaseException | None, error: BaseException, swallowed: list[Any]
) -> None:
    for found in swallowed:
        lost = isinstance(found, ResourceWarning) and ("neither read nor" in str(found) or "unclosed" in str(found))
        assert found is error or lost, found
    if interruption.where is None:
        assert (raised is not None) == case.fails, raised
    elif error in swallowed:
        assert raised is None or case.fails, raised
    else:
        assert raised is error, f"{interruption.where}: {raised!r} in the place of the exception"


def check(case: Case, scene: Scene, interruption: Interruption) -> None:
    agent = scene.agent
    for event in scene.others:
        if isinstance(event, threading.Event):
            event.set()
    in_another_thread(agent.status)
    in_another_thread(agent.sockets)
    for response in scene.prepared if isinstance(scene.prepared, list) else [scene.prepared]:
        if isinstance(response, httpx.Response):
            response.close()
        response = None
    scene.prepared = None
    gc.collect()  # httpx does not close a second time what was interrupted on its way to us: it is dropped
    for thread in scene.threads:
        thread.join(5)
        assert not thread.is_alive(), f"one waits for ever: {agent!r}"
    case.after(scene)
    if scene.network is not None:
        scene.network.scripts = ()
    url = "http://z.test/" if scene.network else scene.url
    assert in_another_thread(lambda: scene.client.get(url, timeout=5)).status_code == 200
    wait_until(lambda: agent._dispatcher.tickets() == [])  # what is dropped is cleared up by a thread of its own
    assert_no_leaks(agent)
    assert not sum(agent.status().requests.values())
    assert len(scene.client._transport._pool._requests) == 0  # type: ignore[attr-defined]
    wait_until(lambda: all(info.state == "free" for info in agent.sockets()))
    assert not agent._dispatcher._unfinished
    assert not agent._dispatcher._is_deciding
    assert not agent._dispatcher._is_unswept
    assert not agent._dispatcher._refused
    if scene.backend is not None:
        # What was detached is the caller's, and goes with the response if that is never closed.
        left = scene.backend.open_streams() - sum(agent.status().free_sockets.values())
        assert left <= agent.status().detached_socket_count * (interruption.where is not None)


@pytest.fixture(scope="module")
def grounds(certificates: Certificates) -> Iterator[dict[str, Ground]]:
    with Server() as server, Server(tls=certificates.server(alpn=["h2", "http/1.1"])) as tls:
        verify = certificates.client()
        yield {
            "scripted": Ground(None, {}),
            "httptools": Ground(server, {"http1_engine": "auto"}),
            "h11": Ground(server, {"http1_engine": "h11"}),
            "tls": Ground(tls, {"verify": verify}),
            "tls-h11": Ground(tls, {"verify": verify, "http1_engine": "h11"}),
            "http2": Ground(tls, {"verify": verify, "http2": True}),
        }


#: Real sockets differ in how they are read and closed, not in who gets them: these show the differences.
ON_SOCKETS = {
    "httptools": [name for name, case in CASES.items() if not case.scripted],
    "h11": ["a new socket", "a body in parts"],
    "tls": ["a new socket", "a used socket"],
    "tls-h11": ["a new socket"],
    "http2": ["a new socket", "a stream that is left"],
}
WAYS = [("scripted", name) for name in CASES] + [(where, name) for where, names in ON_SOCKETS.items() for name in names]


def sweep(
    pytestconfig: pytest.Config, case: Case, ground: Ground, make_error: Callable[[str], BaseException], **options: Any
) -> None:
    """Interrupt a case everywhere, or in a sample of places that begins elsewhere for each case."""
    if pytestconfig.getoption("--whole"):
        for at in itertools.count(1):
            if interrupt(case, ground, at, make_error(f"the {at}th"), **options).where is None:
                return
    count = interrupt(case, ground, sys.maxsize, make_error("never"), **options).count
    step = max(1, count // SAMPLE)
    for at in range(1 + list(CASES.values()).index(case) % step, count + 1, step):
        interrupt(case, ground, at, make_error(f"the {at}th"), **options)


@pytest.mark.parametrize(("where", "name"), WAYS)
def test_every_line(where: str, name: str, grounds: dict[str, Ground], pytestconfig: pytest.Config) -> None:
    sweep(pytestconfig, CASES[name], grounds[where], Interrupted)


@pytest.mark.parametrize("name", CASES)
def test_every_line_of_the_libraries_too(name: str, grounds: dict[str, Ground], pytestconfig: pytest.Config) -> None:
    """With an exception that is an `Exception`: it is not taken for one of the network's."""
    sweep(pytestconfig, CASES[name], grounds["scripted"], SoftLimit, files=(PACKAGE, *LIBRARIES))


@pytest.mark.parametrize("name", CASES)
def test_every_instruction(name: str, grounds: dict[str, Ground], pytestconfig: pytest.Config) -> None:
    sweep(pytestconfig, CASES[name], grounds["scripted"], Interrupted, instructions=True)


# Signals --------------------------------------------------------------------------------------------------------------


class Alarm(BaseException):
    """What the handler raises."""


@pytest.mark.parametrize("where", ["httptools", "h11", "tls"])
def test_signals_at_any_time(where: str, grounds: dict[str, Ground]) -> None:
    """As the system sends them: a timer's signal, sooner or later in one request of many on few sockets.

    Without a client: Python's jar of cookies, which it has, stays locked if it is interrupted.
    """
    random, case = Random(7), Case(get, options={"max_sockets": 2})
    swallowed: list[Any] = []
    before = sys.unraisablehook, signal.signal(signal.SIGALRM, raise_alarm)
    sys.unraisablehook = lambda found: swallowed.append(forget_frames(found.exc_value))
    calls = interrupted = 0
    try:
        with scene_of(case, grounds[where]) as scene:
            respond_to(scene).read()
            while calls < ALARMS:
                calls += 1
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.005))
                    for _ in range(50):
                        respond_to(scene).read()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Alarm:
                    interrupted += 1
            gc.collect()
            check(case, scene, Interruption(0, Alarm()))
    finally:
        sys.unraisablehook = before[0]
        signal.signal(signal.SIGALRM, before[1])
    assert interrupted > calls / 2
    for found in swallowed:
        assert isinstance(found, (Alarm, ResourceWarning)), found


def raise_alarm(*_: object) -> None:
    raise Alarm


ALARMS = 150
"""How many; the soak sends more."""
