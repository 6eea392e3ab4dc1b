"""Fixtures for all tests, and the hook that runs `async def` tests in their world."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator

import pytest

from tests.bugs.stock import Stack
from tests.support.sampling import left_out
from tests.support.servers import Certificates, Server
from tests.support.worlds import FAST_WORLDS, H11_WORLDS, WORLDS, World


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much of what is sampled by default is to run, and what must be there."""
    parser.addoption(
        "--require-servers",
        action="store_true",
        help="fail where a server or proxy of `tests/servers` is not installed, rather than skip",
    )
    parser.addoption(
        "--every-case", action="store_true", help="run every case of the tests marked `sweep`, not a sample: minutes"
    )
    parser.addoption(
        "--whole",
        action="store_true",
        help="take no sample of anything: every case of a sweep, every instruction at which a request can be "
        "interrupted, every recorded trace: hours",
    )
    parser.addoption(
        "--traces", action="append", metavar="FILE", help="play the recorded traces of a file over real sockets"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def` test that takes `world` on that world's loop."""
    running = pyfuncitem.funcargs.get("world")
    if not inspect.iscoroutinefunction(pyfuncitem.obj) or not isinstance(running, World):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    running.run(pyfuncitem.obj, **arguments)
    return True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Sync, asyncio, and trio, unless a test's marks say otherwise.

    With both engines where it is marked `both_engines`, because its network is one of real sockets. Only with the fast
    one where it is marked `fast_engine`. Only in event loops where it is marked `in_loops`: threads cannot do it.
    """
    named = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "world" in metafunc.fixturenames and "world" not in named:
        marks = {mark.name for mark in metafunc.definition.iter_markers()}
        worlds = FAST_WORLDS if "fast_engine" in marks else WORLDS + H11_WORLDS if "both_engines" in marks else WORLDS
        if "in_loops" in marks:
            worlds = [world for world in worlds if not world.is_sync]
        metafunc.parametrize("world", worlds, ids=[world.name for world in worlds])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take samples of the sweeps; let bodies be dropped half-way in trio; give what is not sampled its time.

    The bodies of httpx and httpcore and of their heirs, of requests and of responses, are chains of async generators;
    when one ends early, nothing closes those inside it but the collector, of which trio warns. That is theirs: no
    generator of this library is among those named here.
    """
    names = r"(http(x|core)2?|tests\.support\.worlds\.World\.body)\."
    for item in items:
        item.add_marker(pytest.mark.filterwarnings(f"ignore:Async generator '{names}:ResourceWarning"))
        if config.getoption("--whole"):
            item.add_marker(pytest.mark.timeout(900))
    if not (config.getoption("--every-case") or config.getoption("--whole")):
        skipped = left_out(items, config.args)
        if skipped:
            names_of_skipped = {item.nodeid for item in skipped}
            items[:] = [item for item in items if item.nodeid not in names_of_skipped]
            config.hook.pytest_deselected(items=skipped)


@pytest.fixture(autouse=True, scope="session")
def _until_the_end() -> Iterator[None]:
    """What comes after the tests finds the collector as it should be."""
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def _what_was_there_before(_until_the_end: None) -> None:
    """The collector passes over it from now on, so that it takes 1 ms in place of 30 after each test.

    What is left at the end of one file stays passed over in the next: to look through all of it again for each file
    took a third of the time of the unit tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_is_left_unclosed(_what_was_there_before: None) -> Iterator[None]:
    """What a test left for the collector is found at its end, and not in some later test's time."""
    yield
    gc.collect()


@pytest.fixture
def stack(request: pytest.FixtureRequest) -> Stack:
    """Our transport, or with `--stock` another: see `tests.bugs.stock`."""
    return Stack(request.config.getoption("--stock", default=None))


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    """A certificate authority for the whole run."""
    return Certificates()


@pytest.fixture
def server() -> Iterator[Server]:
    """An HTTP/1.1 server."""
    with Server() as running:
        yield running


@pytest.fixture
def tls_server(certificates: Certificates) -> Iterator[Server]:
    """An HTTPS server that speaks HTTP/1.1."""
    with Server(tls=certificates.server(alpn=["http/1.1"])) as running:
        yield running


@pytest.fixture
def h2_server(certificates: Certificates) -> Iterator[Server]:
    """An HTTPS server that speaks HTTP/2, and HTTP/1.1 to those who want that."""
    with Server(tls=certificates.server(alpn=["h2", "http/1.1"])) as running:
        yield running
