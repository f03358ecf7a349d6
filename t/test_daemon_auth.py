"""Who may call at a real harpd, and what; and the parts that decide it."""

import hashlib
import os
import time

import pytest
from daemon_setup import (  # noqa: F401
    PASSWORD,
    USER,
    error_of,
    harpd,
    make_harpd,
    request,
)
from harp.config import ConfigError, DaemonConfig
from harp.auth import Authenticator
from harp.daemon.front import may_call
from harp.auth.delays import Delays
from harp.errors import Refusal

REFUSED = ("auth_error", "unknown user or wrong password")


def ask(daemon, procedure="echo", arguments=(1,), **more):
    """Return the last message to a request."""
    with daemon.connect() as caller:
        caller.send_message(request(procedure, arguments, **more))
        return caller.messages()[-1]


def sha256(password) -> str:
    return "sha256:" + hashlib.sha256(password.encode()).hexdigest()


# --- authorization ------------------------------------------------------------------


def test_with_the_table_nobody_may_call_what_is_not_listed_for_them(make_harpd):
    users = {name: f"plain:{PASSWORD}" for name in ("some", "all", "none", "absent")}
    daemon = make_harpd(
        users=users,
        authorization={"some": ["echo", "no?hing"], "all": ["*"], "none": []},
    )

    def may(user, procedure="echo"):
        message = ask(daemon, procedure, (), user=user)
        if "error" not in message:
            return True
        assert error_of(message) == (
            "auth_error",
            "this user may not call that procedure",
        )
        return False

    assert may("some") and may("some", "nothing") and not may("some", "add")
    assert may("all") and not may("none") and not may("absent") and not may(USER)
    # Whether there is such a procedure is told to those only who may call it.
    assert not may("some", "of no such name")
    message = ask(daemon, "of no such name", (), user="all")
    assert error_of(message)[0] == "no_such_procedure"


def test_empty_table_lets_nobody_call_anything(make_harpd):
    daemon = make_harpd(authorization={})
    assert error_of(ask(daemon))[0] == "auth_error"


@pytest.mark.parametrize(
    "patterns, procedure, allowed",
    [
        (("disk_*",), "disk_usage", True),
        (("disk_*",), "Disk_usage", False),
        (("disk_*",), "my_disk_usage", False),
        (("[ab]",), "a", True),
        (("a", "b"), "b", True),
        ((), "a", False),
        (("",), "a", False),
    ],
)
def test_patterns_are_those_of_files_and_of_the_whole_name(
    patterns, procedure, allowed
):
    assert may_call({"user": patterns}, "user", procedure) is allowed
    assert not may_call({"user": patterns}, "other", procedure)
    assert may_call(None, "user", procedure)


# --- backends -----------------------------------------------------------------------

BACKEND = """
class Backend:
    def authenticate(self, user, password):
        if user == "breaks":
            raise RuntimeError("is broken")
        return (user, password) == ("from afar", "sesame")

def create(config):
    return Backend()
"""


def load(tmp_path, monkeypatch, source, **more):
    """Return an authenticator with a backend of that source."""
    (tmp_path / "backend_of_a_test.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "backend_of_a_test", raising=False)
    return Authenticator(DaemonConfig(**more), ("backend_of_a_test",))


def check(authenticator, user, password):
    return authenticator.authenticate(user, password, time.monotonic() + 10)


def test_further_backends_let_in_whom_they_know(tmp_path, monkeypatch):
    found = load(tmp_path, monkeypatch, BACKEND, users={"a": "plain:b"})
    assert check(found, "from afar", "sesame") and check(found, "a", "b")
    assert not check(found, "from afar", "b")


def test_backend_that_fails_lets_nobody_in_and_is_logged(
    tmp_path, monkeypatch, caplog
):
    found = load(tmp_path, monkeypatch, BACKEND)
    assert not check(found, "breaks", "x")
    assert "is broken" in caplog.text and "backend failed" in caplog.text


@pytest.mark.parametrize(
    "source, text",
    [
        ("", "auth.backends: backend_of_a_test: AttributeError: "),
        ("1/0", "auth.backends: backend_of_a_test: ZeroDivisionError: "),
        (
            "from harp.config import ConfigError\n"
            "def create(config): raise ConfigError(['realm: is missing'])",
            "realm: is missing",
        ),
    ],
)
def test_backend_that_cannot_be_used_is_a_fault_of_the_configuration(
    tmp_path, monkeypatch, source, text
):
    with pytest.raises(ConfigError, match=text):
        load(tmp_path, monkeypatch, source)


def test_backend_is_found_on_the_configured_path(make_harpd, tmp_path):
    directory = tmp_path / "modules"
    directory.mkdir()
    (directory / "far_backend.py").write_text(BACKEND)
    daemon = make_harpd(
        procedures={"python_path": [str(directory)]},
        auth={"backends": ["far_backend"]},
    )
    message = ask(daemon, user="from afar", password="sesame")
    assert message == {"result": 1}
    assert ask(daemon) == {"result": 1}


# --- verified passwords -------------------------------------------------------------

COUNTING = """
class Backend:
    asked = 0
    number = 0
    def authenticate(self, user, password):
        self.asked += 1
        return password == "right"
    {version}

backend = Backend()
create = lambda config: backend
"""
VERSION = "def version(self): return self.number"


@pytest.fixture
def counting(tmp_path, monkeypatch, fake_clock):
    """Return an authenticator whose backend counts, and that backend."""

    def make(version=VERSION):
        found = load(tmp_path, monkeypatch, COUNTING.format(version=version))
        found._clock = fake_clock
        return found, found._backends[-1]

    return make


def test_verified_password_is_not_verified_again_for_ten_minutes(
    counting, fake_clock
):
    found, backend = counting()
    for _ in range(5):
        assert check(found, "user", "right")
    assert backend.asked == 1
    fake_clock.advance(599)
    assert check(found, "user", "right") and backend.asked == 1
    fake_clock.advance(1)
    assert check(found, "user", "right") and backend.asked == 2


def test_verified_password_is_dropped_when_the_users_change(counting):
    found, backend = counting()
    check(found, "user", "right")
    backend.number += 1
    assert check(found, "user", "right") and backend.asked == 2


def test_wrong_password_is_verified_each_time(counting):
    found, backend = counting()
    check(found, "user", "right")
    for user, password in [("user", "wrong"), ("use", "rright"), ("user", "wrong")]:
        check(found, user, password)
    assert backend.asked == 4


def test_backend_that_does_not_tell_of_changes_is_asked_each_time(counting):
    found, backend = counting(version="")
    check(found, "user", "right"), check(found, "user", "right")
    assert backend.asked == 2


def test_verified_passwords_do_not_fill_the_memory(counting):
    found, _ = counting()
    for number in range(1200):
        check(found, f"user {number}", "right")
    assert len(found._verified) == 1000


def test_password_that_is_taken_out_of_the_file_is_refused_at_once(
    make_harpd, tmp_path
):
    file = tmp_path / "passwords"
    file.touch(mode=0o600)
    file.write_text(f"admin:{sha256('one')}\n")
    daemon = make_harpd(password_file=str(file))
    for _ in range(2):
        assert ask(daemon, user="admin", password="one") == {"result": 1}
    file.write_text(f"admin:{sha256('two')}\n")
    assert error_of(ask(daemon, user="admin", password="one")) == REFUSED


def test_two_hashes_at_a_time_are_computed_and_others_wait_for_their_turn(
    tmp_path, monkeypatch, in_thread, wait_for
):
    source = (
        "import threading\n"
        "class Backend:\n"
        "    running = 0\n"
        "    go = threading.Event()\n"
        "    def authenticate(self, user, password):\n"
        "        self.running += 1\n"
        "        self.go.wait(20)\n"
        "        return True\n"
        "backend = Backend()\n"
        "create = lambda config: backend\n"
    )
    found = load(tmp_path, monkeypatch, source)
    backend = found._backends[-1]
    running = [in_thread(check, found, "user", str(n)) for n in range(4)]
    wait_for(lambda: backend.running == 2)
    with pytest.raises(Refusal, match="overloaded"):
        found.authenticate("user", "x", time.monotonic())
    with pytest.raises(Refusal, match="overloaded"):
        found.authenticate("user", "x", time.monotonic() + 60, lambda: True)
    assert backend.running == 2
    backend.go.set()
    assert all(one.result() for one in running)


# --- failures -----------------------------------------------------------------------


def test_delay_doubles_with_each_failure_of_an_address_up_to_the_longest(fake_clock):
    delays = Delays(fake_clock)
    found = [delays.note_failure("1.2.3.4:80", f"o{n}", 0.1, 5) for n in range(2)]
    assert found == [0.1, 0.2]
    found = [delays.note_failure("1.2.3.4", f"u{n}", 0.1, 5) for n in range(8)]
    assert found == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5])
    assert delays.note_failure("1.2.3.5", "other", 0.1, 5) == 0.1


def test_delay_grows_for_a_user_whatever_the_address(fake_clock):
    delays = Delays(fake_clock)
    found = [delays.note_failure(f"1.2.3.{n}", "user", 0.1, 5) for n in range(3)]
    assert found == pytest.approx([0.1, 0.2, 0.4])


def test_delay_of_ipv6_grows_for_the_network(fake_clock):
    delays = Delays(fake_clock)
    addresses = ["2001:db8::1", "2001:db8::2", "fe80::1%eth0", "2001:db8:0:1::1"]
    found = [delays.note_failure(a, a, 0.1, 5) for a in addresses]
    assert found == pytest.approx([0.1, 0.2, 0.1, 0.1])


def test_failures_are_forgotten_and_take_bounded_memory(fake_clock):
    delays = Delays(fake_clock)
    delays.note_failure("1.2.3.4", "user", 0.1, 5)
    fake_clock.advance(601)
    assert delays.note_failure("1.2.3.4", "user", 0.1, 5) == 0.1
    for number in range(20_000):
        delays.note_failure("1.2.3.4", f"user {number}", 0.1, 5)
    assert len(delays._failures) == 10_000
    assert delays.note_failure("1.2.3.4", "new", 0.1, 5) == 5


def test_reply_to_a_failure_waits_longer_each_time_and_a_success_never(make_harpd):
    daemon = make_harpd(auth={"failure_delay": 0.2, "max_failure_delay": 0.4})
    for delay in (0.2, 0.4, 0.4):
        begin = time.monotonic()
        assert error_of(ask(daemon, password="wrong")) == REFUSED
        assert time.monotonic() - begin >= delay
        # The same user from the same address, in one go with the others.
        assert ask(daemon) == {"result": 1}
    lines = [line for line in daemon.log().splitlines() if "call ended" in line]
    durations = [float(line.rpartition('"duration": ')[2][:-1]) for line in lines]
    assert max(durations) < 0.2


def test_caller_who_waits_for_its_refusal_does_not_delay_the_stop(make_harpd):
    daemon = make_harpd(auth={"failure_delay": 60, "max_failure_delay": 60})
    with daemon.connect() as caller:
        caller.send_message(request("echo", password="wrong"))
        assert ask(daemon) == {"result": 1}
        assert daemon.stop() == 0
        assert error_of(caller.message()) == REFUSED


# --- the log ------------------------------------------------------------------------


def test_each_refusal_has_one_line_with_who_and_why_and_no_argument(
    make_harpd, wait_for
):
    daemon = make_harpd()
    ask(daemon, "echo", ["hidden"], password="swordfish", job_id="job-1")
    with daemon.connect() as caller:
        caller.send(b'{"harp": 1, "arguments": {"hidden": 1, "hidden": 2}}\n')
        caller.messages()

    def lines():
        found = [line for line in daemon.log().splitlines() if "call refused" in line]
        return len(found) == 2 and found

    first, second = wait_for(lines)
    for part in (
        '"peer": "127.0.0.1:',
        f'"user": "{USER}"',
        '"procedure": "echo"',
        '"job_id": "job-1"',
        '"uid": ',
        '"end": "auth_error"',
        '"duration": ',
    ):
        assert part in first
    assert '"end": "invalid_request"' in second
    for word in ("hidden", "swordfish", PASSWORD):
        assert word not in daemon.log()


def test_call_has_one_line_with_the_user_that_it_ran_as(harpd, wait_for):
    ask(harpd, job_id="job-uid")

    def lines():
        return [line for line in harpd.log().splitlines() if '"job-uid"' in line]

    (line,) = wait_for(lines)
    assert f'"uid": {os.getuid()},' in line
    assert '"pid": ' in line and '"end": "result"' in line
