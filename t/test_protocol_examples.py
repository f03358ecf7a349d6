"""The dialogues of doc/protocol.rst, held with real daemons.

A line behind ">" is sent, one behind "<" expected. Each block of them is a connection
of its own. What a page can't know is told by its place: ids of jobs are bound when they
are first met, what stands beside some keys may be another's, "..." is any text, and at
the end of an array any more entries. What only reads is asked again until the reply is
the one shown: jobs go on meanwhile.
"""

import json
import os
import pwd
import re
import textwrap
import time

import pytest
from conftest import TOP
from daemon_setup import Caller, Harpd
from dispatchers import Dispatcher
from harp import errors, jobid
from harp.protocol import Call, admin, asked

PAGE = (TOP / "doc" / "protocol.rst").read_text(encoding="utf-8")
CLIENTS, ADMIN, DAEMON = (
    "Clients and the dispatcher",
    "The admin socket",
    "The dispatcher and the daemon",
)
CLOSES = "(the connection closes)"
PASSWORD = "geheim"
READING = "get_status", "read_stream", "list_", "explain", "status", "metrics"
SECONDS = 30
_DAY = 86400

# Of the page, and of this run.
ALIASES = {"10.8.14.2": "127.0.0.1", "www-data": pwd.getpwuid(os.geteuid()).pw_name}
# Keys whose numbers and strings are another machine's.
VARYING = frozenset(
    """
    version python pid port free seconds digest cert_sha256 cert_expires connections
    value since last_heard timeout_left max_exec_time_left bytes source queued running
    """.split()
)


class Dialogue:
    """A block of the page: requests, and what comes.

    :ivar steps: pairs of ``>``, ``<`` or :data:`CLOSES`, and the text
    """

    def __init__(self, block: str) -> None:
        self.steps: list[list[str]] = []
        for line in textwrap.dedent(block).splitlines():
            if line[:2] in ("> ", "< "):
                self.steps.append([line[0], line[2:]])
            elif line == CLOSES:
                self.steps.append([CLOSES, ""])
            elif line.strip():
                self.steps[-1][1] += " " + line.strip()

    def __str__(self) -> str:
        return "\n".join(f"{mark} {text}" for mark, text in self.steps)

    def exchanges(self):
        """Yield requests, and the list of what comes until the next one."""
        steps = self.steps + [[">", None]]
        sent, expected = steps[0][1], []
        for mark, text in steps[1:]:
            if mark == ">":
                yield sent, expected
                sent, expected = text, []
            else:
                expected.append(CLOSES if mark == CLOSES else text)


def section(title: str) -> str:
    """The part of the page below a title, up to the next one of its kind."""
    parts = re.split(r"^(.+)\n-{3,}\n", PAGE, flags=re.M)
    return parts[parts.index(title) + 1]


def dialogues(title: str) -> list[Dialogue]:
    blocks = re.findall(r"::\n\n((?:    .*\n|\n)+)", section(title))
    return [Dialogue(block) for block in blocks if block.startswith("    > ")]


class Bindings:
    """What stands in this run in place of what stands in the page."""

    _ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def sent(self, text: str) -> str:
        for old, new in ALIASES.items():
            text = text.replace(old, new)
        return self._ID.sub(lambda found: self._id(found[0]), text)

    def _id(self, name: str) -> str:
        return self._ids.setdefault(name, jobid.make())

    def matches(self, expected, found, key: str = "") -> bool:
        """Tell whether a reply is the one in the page."""
        if isinstance(expected, dict):
            return (
                isinstance(found, dict)
                and expected.keys() == found.keys()
                and all(self.matches(expected[k], found[k], k) for k in expected)
            )
        if isinstance(expected, list):
            if not isinstance(found, list):
                return False
            if expected[-1:] == ["..."]:
                expected, found = expected[:-1], found[: len(expected) - 1]
            return len(expected) == len(found) and all(
                self.matches(one, other, key) for one, other in zip(expected, found)
            )
        if isinstance(expected, bool) or expected is None:
            return expected is found
        if isinstance(expected, str):
            return isinstance(found, str) and self._is_text(expected, found, key)
        if type(found) not in (int, float):
            return False
        if expected > 1e9 and key not in VARYING:  # a time
            return type(found) is type(expected) and abs(found - time.time()) < _DAY
        return key in VARYING or expected == found

    def _is_text(self, expected: str, found: str, key: str) -> bool:
        if self._ID.fullmatch(expected):
            return self._ids.setdefault(expected, found) == found
        pattern = re.escape(ALIASES.get(expected, expected)).replace(r"\.\.\.", ".*")
        return key in VARYING or re.fullmatch(pattern, found, re.S) is not None


def hold(dialogue: Dialogue, bindings: Bindings, connect) -> None:
    """Say what the page says, and compare what comes."""
    with connect() as peer:
        for sent, expected in dialogue.exchanges():
            may_repeat = any(f'"{word}' in sent for word in READING)
            deadline = time.monotonic() + SECONDS
            while True:
                peer.send_bytes(bindings.sent(sent).encode() + b"\n")
                found = [peer.line().decode() for _ in expected]
                if all(map(lambda *pair: is_same(bindings, *pair), expected, found)):
                    break
                shown = f"{dialogue}\n\nsent: {sent}\nwanted: {expected}\n"
                shown += "got: " + "".join(found)
                assert may_repeat and time.monotonic() < deadline, shown
                time.sleep(0.05)


def is_same(bindings: Bindings, expected: str, found: str) -> bool:
    if expected == CLOSES or not found:
        return expected == CLOSES and not found
    return bindings.matches(json.loads(expected), json.loads(found))


class DirectCaller(Caller):
    """A caller of harpd with the methods of a dispatcher's client."""

    def send_bytes(self, data: bytes) -> None:
        self.send(data)

    def line(self) -> bytes:
        return self._file.readline()


@pytest.fixture(scope="module")
def system(tmp_path_factory, certificate):
    """A harpd that has the procedures of examples/, and a dispatcher that knows it."""
    directory = tmp_path_factory.mktemp("protocol")
    daemon = Harpd(
        directory,
        certificate,
        TOP / "examples" / "procedures.py",
        {
            "users": {
                "dispatcher": f"plain:{PASSWORD}",
                "panel": f"plain:{PASSWORD}",
            },
            "authorization": {"dispatcher": ["*"], "panel": ["withdraw"]},
        },
    )
    daemon.start()
    dispatcher = Dispatcher(directory / "dispatcher")
    try:
        write_registry(dispatcher, daemon, certificate)
        dispatcher.start()
        yield dispatcher, daemon
        dispatcher.stop()
    finally:
        dispatcher.kill()
        daemon.stop()


def write_registry(dispatcher, daemon, certificate) -> None:
    """Write the registry of the page, with what is true here put in."""
    block = re.search(r"::\n\n((?:    .*\n)+)", section("Hosts registry"))[1]
    lines = re.findall(r"\{.*?\}\}", block, re.S)
    hosts = [json.loads(re.sub(r"\s+", " ", line)) for line in lines]
    for host in hosts:
        host["address"] = ALIASES[host["address"]]
        host["port"] = daemon.port
        host["cert_sha256"] = certificate.sha256
    dispatcher.write_hosts(hosts)


def test_dialogues_with_the_dispatcher_are_as_shown(system):
    dispatcher, _ = system
    bindings = Bindings()
    clients, admin = dialogues(CLIENTS), dialogues(ADMIN)
    assert len(clients) > 12 and len(admin) > 5
    for dialogue in clients:
        hold(dialogue, bindings, dispatcher.connect_unix)
    for dialogue in admin:
        hold(dialogue, bindings, lambda: dispatcher.connect_unix("control"))


def test_dialogues_with_the_daemon_are_as_shown(system):
    _, daemon = system
    found = dialogues(DAEMON)
    assert len(found) > 4
    for dialogue in found:
        dialogue.steps.append([CLOSES, ""])  # always, after the last message
        hold(dialogue, Bindings(), lambda: DirectCaller(daemon.port))


def test_page_shows_each_operation():
    sent = [
        json.loads(text)
        for title in (CLIENTS, ADMIN)
        for dialogue in dialogues(title)
        for text, _ in dialogue.exchanges()
        if text.endswith("}")
    ]
    shown = {key for message in sent if "error" not in message for key in message}
    assert asked._PARSERS.keys() | admin.ADMIN_PARSERS.keys() | {*Call._fields} <= shown


def test_page_names_each_type_of_error():
    named = re.findall(r"``(\w+)``", section("Error types"))
    assert {*named} & errors.ERROR_TYPES == errors.ERROR_TYPES
