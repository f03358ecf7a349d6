"""What all tests share."""

import os
import signal
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import leftovers
import peers
import pytest

TOP = Path(__file__).resolve().parents[1]
LIB = TOP / "lib"
PROCEDURES = TOP / "t" / "procedures_for_tests.py"

_SECONDS_TO_END = 5.0
_TEST_SECONDS = 60
_SLOW_TEST_SECONDS = 300
_UNCLOSED = "ResourceWarning"


# --- how the tests are run ----------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")
    parser.addoption(
        "--dev",
        action="store_true",
        help="run the programs under -X dev, a ResourceWarning in a log is a failure",
    )
    parser.addoption("--seed", default="1", help="of the fuzzers' cases; default: 1")


def pytest_configure(config: pytest.Config) -> None:
    # The programs that tests start find the library as the tests do.
    paths = [str(LIB), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    if config.getoption("--dev"):
        os.environ["PYTHONDEVMODE"] = "1"
        os.environ["PYTHONWARNINGS"] = f"error::{_UNCLOSED}"
    leftovers.mark()
    # Whoever ends the tests gets what they have started ended too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Ignored in the background of a script, it would be in what the tests start, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow; run with --slow"))


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> str:
    """What the fuzzers' cases follow from: see :func:`fuzzing.cases`."""
    return request.config.getoption("--seed")


# --- no test hangs ------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    slow = item.get_closest_marker("slow")
    seconds = _TEST_SECONDS
    if slow is not None:
        seconds = slow.kwargs.get("seconds", _SLOW_TEST_SECONDS)

    def give_up(*_) -> None:
        pytest.fail(f"not done within {seconds} s: it waits here")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


# --- nothing is left behind ---------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _temporary_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where temporary files go that are nobody's, to see them."""
    directory = tmp_path_factory.mktemp("tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(directory))
        patch.setattr(tempfile, "tempdir", None)
        yield directory


@pytest.fixture(scope="session", autouse=True)
def _session_leaves_nothing_behind(_temporary_directory: Path) -> Iterator[None]:
    yield from _check_leftovers(_temporary_directory, "the tests have")


@pytest.fixture(autouse=True)
def _test_leaves_nothing_behind(_temporary_directory: Path) -> Iterator[None]:
    yield from _check_leftovers(_temporary_directory, "this test has")


def _check_leftovers(directory: Path, who: str) -> Iterator[None]:
    before = leftovers.take(directory)
    yield
    left = leftovers.wait_until_gone(directory, before, _SECONDS_TO_END)
    if left:
        leftovers.kill_beyond(directory, before)
        pytest.fail(f"{who} left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _session_leaves_nothing_open(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    yield
    if request.config.getoption("--dev"):
        _check_unclosed(tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True)
def _test_leaves_nothing_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """The programs of a test have closed all that they let go of."""
    if not request.config.getoption("--dev"):
        yield
        return
    directory = request.getfixturevalue("tmp_path")
    yield
    _check_unclosed(directory)


def _check_unclosed(directory: Path) -> None:
    # Raised where nobody can catch it, it stands in what a program writes.
    found = [
        f"{path.name}: {line}"
        for path in directory.rglob("*.log")
        if path.is_file()
        for line in path.read_text(errors="replace").splitlines()
        if _UNCLOSED in line
    ]
    if found:
        pytest.fail("programs left open:\n  " + "\n  ".join(found), pytrace=False)


# --- waiting and time ---------------------------------------------------------------


@pytest.fixture(scope="session")
def wait_for() -> Callable:
    """``wait_for(condition, deadline=10)`` returns what the condition returns, as soon
    as that is true; fails when it isn't in so many seconds."""

    def wait(condition: Callable, deadline: float = 10):
        end = time.monotonic() + deadline
        while not (value := condition()):
            if time.monotonic() > end:
                pytest.fail(f"not so within {deadline} s: {condition}", pytrace=True)
            time.sleep(0.005)
        return value

    return wait


class FakeClock:
    """A clock that goes on when it is told: called, it says the time."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def fake_clock() -> FakeClock:
    return FakeClock()


class Running:
    """A function that runs in a thread of its own."""

    def __init__(self, function: Callable, *args) -> None:
        self._outcome: list = []
        self._thread = threading.Thread(
            target=self._run, args=(function, args), name=f"test-{function.__name__}"
        )
        self._thread.start()

    def _run(self, function: Callable, args: tuple) -> None:
        try:
            self._outcome = [function(*args), None]
        except BaseException as error:
            self._outcome = [None, error]

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def result(self, timeout: float = 30):
        """Return what the function returns, or raise what it raises."""
        self._thread.join(timeout)
        assert not self.is_running, f"{self._thread.name} still runs after {timeout} s"
        value, error = self._outcome
        if error is not None:
            raise error
        return value


@pytest.fixture
def in_thread() -> Callable:
    """``in_thread(function, *args)`` runs it in a thread; see :class:`Running`."""
    return Running


# --- peers and servers --------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory):
    """A certificate for localhost and 127.0.0.1: ``.certificate``, ``.key``,
    ``.sha256``."""
    from harp import testing

    return testing.make_certificate(
        tmp_path_factory.mktemp("certificate"), ["localhost", "127.0.0.1"]
    )


@pytest.fixture(scope="session")
def server_context(certificate) -> ssl.SSLContext:
    """TLS as a server with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    context.num_tickets = 0
    # Without it nothing could be sent to a client that has half-closed.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


@pytest.fixture(scope="session")
def client_context(certificate) -> ssl.SSLContext:
    """TLS as a client that trusts that certificate."""
    return ssl.create_default_context(cafile=certificate.certificate)


@pytest.fixture
def scripted_peer(request: pytest.FixtureRequest) -> Callable:
    """``scripted_peer(script, tls=False)`` starts a :class:`peers.ScriptedPeer`, with
    the certificate if TLS. A script that fails makes the test fail."""

    def start(script, *, tls: bool = False, **options) -> peers.ScriptedPeer:
        context = request.getfixturevalue("server_context") if tls else None
        peer = peers.ScriptedPeer(script, context, **options)
        request.addfinalizer(peer.stop)
        return peer

    return start


@pytest.fixture
def daemon(server_context: ssl.SSLContext) -> Iterator:
    """A :class:`dispatchers.Daemon` for this test."""
    import dispatchers

    daemon = dispatchers.Daemon(server_context)
    yield daemon
    daemon.stop()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory):
    """A harpd with the procedures for tests and a harpcallerd, running, the same for
    all tests that don't disturb them: see :class:`harp.testing.Servers`."""
    from harp import testing

    with testing.Servers(PROCEDURES, tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture
def make_servers(request: pytest.FixtureRequest, tmp_path: Path) -> Callable:
    """``make_servers(procedures=..., daemon=None, dispatcher=None)`` starts a pair for
    this test alone, with what is changed in either configuration."""
    from harp import testing

    def start(procedures=PROCEDURES, **options):
        started = testing.Servers(procedures, tmp_path / f"{len(made)}", **options)
        request.addfinalizer(started.stop)
        started.start()
        made.append(started)
        return started

    made: list = []
    return start


@pytest.fixture(scope="session")
def run_python() -> Callable:
    """``run_python(code, *options)`` runs code in a Python process of its own, fails
    if that fails, and returns what it printed."""
    import subprocess

    def run(code: str, *options: str, timeout: float = 60) -> str:
        process = subprocess.run(
            [sys.executable, *options, "-c", code],
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    return run
