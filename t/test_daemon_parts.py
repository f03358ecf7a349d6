"""Parts of harpd that need no daemon: lines on their way, passwords, killing."""

import base64
import hashlib
import subprocess
import time

import pytest
from daemon_setup import children_of, is_alive
from harp.auth import passwords
from harp.daemon.lines import CallLines
from harp.daemon.processes import Killing, Snapshot

ACKNOWLEDGEMENT = b'{"harp":1,"stream_result":true}\n'
VALUE = b'{"stream":{"result":"{\\"result\\":1}"}}\n'
ENDS = {
    "result": b'{"result":{"stream":1}}\n',
    "exception": b'{"exception":{"type":"E","message":""}}\n',
    "error": b'{"harp":1,"error":{"type":"invalid_result","message":""}}\n',
}


# --- lines --------------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS)
def test_lines_are_recognised_wherever_they_are_cut(end):
    whole = ACKNOWLEDGEMENT + VALUE * 2 + ENDS[end]
    for cut in range(len(whole) + 1):
        lines = CallLines(1000)
        relayed = lines.feed(whole[:cut])
        assert relayed == whole[: whole.rfind(b"\n", 0, cut) + 1]
        assert lines.acknowledged == (cut >= len(ACKNOWLEDGEMENT))
        assert lines.end == (end if cut == len(whole) else None)
        relayed += lines.feed(whole[cut:])
        assert relayed == whole
        assert (lines.acknowledged, lines.end) == (True, end)
        assert lines.end_line == ENDS[end].rstrip(b"\n")


def test_error_in_place_of_the_acknowledgement_is_an_end_without_one():
    lines = CallLines(1000)
    lines.feed(ENDS["error"])
    assert (lines.acknowledged, lines.end) == (False, "error")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("piece", [1, 7, 30, 1000])
def test_long_line_goes_in_pieces_and_is_recognised_at_its_end(end, piece):
    long = ENDS[end].replace(b"\n", b" " * 200 + b"\n")
    whole = ACKNOWLEDGEMENT + VALUE.replace(b"\n", b" " * 200 + b"\n") + long
    lines = CallLines(60)
    relayed = b""
    for start in range(0, len(whole), piece):
        assert lines.end is None
        relayed += lines.feed(whole[start : start + piece])
    assert relayed == whole
    assert (lines.acknowledged, lines.end, lines.in_pieces) == (True, end, False)


def test_nothing_is_relayed_behind_the_end():
    lines = CallLines(1000)
    lines.feed(ENDS["result"])
    assert lines.feed(VALUE) == b""


@pytest.mark.parametrize("limit", [10, 1000])
def test_exception_is_not_relayed_once_the_call_is_being_killed(limit):
    lines = CallLines(limit)
    assert lines.feed(ACKNOWLEDGEMENT) == ACKNOWLEDGEMENT
    lines.refuse_exceptions = True
    assert lines.feed(ENDS["exception"][:20]) == b""
    assert lines.feed(ENDS["exception"][20:]) == b""
    assert lines.end is None


# --- passwords ----------------------------------------------------------------------


def scrypt(password: bytes, n=16, r=2, p=1) -> str:
    digest = hashlib.scrypt(password, salt=b"salt", n=n, r=r, p=p)
    parts = [base64.b64encode(part).decode() for part in (b"salt", digest)]
    return f"scrypt:{n}:{r}:{p}:" + ":".join(parts)


@pytest.mark.parametrize(
    "text",
    [
        "plain:pass:wörd",
        "sha256:" + hashlib.sha256("pass:wörd".encode()).hexdigest(),
        scrypt("pass:wörd".encode()),
    ],
)
def test_password_matches_its_own_form_and_no_other_password(text):
    secret = passwords.parse(text, allow_plain=True)
    assert secret.matches("pass:wörd")
    for other in ("", "pass:wörd ", "PASS:WÖRD", "\udcff", "pass"):
        assert not secret.matches(other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        "plain",
        "md5:00",
        "sha256:",
        "sha256:" + "0" * 63,
        "sha256:" + "g" * 64,
        "scrypt:16:2:1:c2FsdA==",
        "scrypt:16:2:1:c2FsdA==:",
        "scrypt:15:2:1:c2FsdA==:c2FsdA==",
        "scrypt:0:2:1:c2FsdA==:c2FsdA==",
        "scrypt:16:2:0:c2FsdA==:c2FsdA==",
        "scrypt:16:2:1:!:c2FsdA==",
        "scrypt:1073741824:8:1:c2FsdA==:c2FsdA==",
        "scrypt:65536:1:1:c2FsdA==:c2FsdA==",
    ],
)
def test_password_in_no_known_form_is_refused_without_being_shown(text):
    with pytest.raises(ValueError) as caught:
        passwords.parse(text, allow_plain=True)
    assert "hunter2" not in str(caught.value)


def test_plain_password_is_refused_where_it_is_not_allowed():
    with pytest.raises(ValueError):
        passwords.parse("plain:x", allow_plain=False)


def test_all_passwords_of_a_user_are_valid_and_nobody_else_s():
    users = passwords.Users(
        (name, passwords.parse(f"plain:{text}", True))
        for name, text in (("a", "1"), ("a", "2"), ("b", "3"))
    )
    assert users.authenticate("a", "1") and users.authenticate("a", "2")
    assert not users.authenticate("a", "3")
    assert not users.authenticate("c", "1")
    assert not passwords.Users(()).authenticate("a", "")


# --- processes ----------------------------------------------------------------------


def kill_all(killing: Killing) -> None:
    killing.extend(Snapshot())
    while killing.any_left(time.monotonic()) or killing.extend(Snapshot()):
        time.sleep(0.001)


def test_kill_finds_the_session_and_descendants_in_other_sessions(wait_for):
    script = "setsid sh -c 'sleep 600 & wait' & sleep 600 & sh -c 'exec sleep 600'"
    leader = subprocess.Popen(["sh", "-c", script], start_new_session=True)

    def family():
        pids = [leader.pid]
        for pid in pids:
            pids += children_of(pid)
        return pids

    pids = wait_for(lambda: len(found := family()) == 5 and found)
    kill_all(Killing(leader.pid, time.monotonic() + 60))
    assert not any(map(is_alive, pids))
    assert leader.wait() < 0


def test_kill_is_over_at_once_if_nothing_is_left():
    leader = subprocess.Popen(["true"])
    while is_alive(leader.pid):
        time.sleep(0.001)
    killing = Killing(leader.pid, 0)
    assert not killing.extend(Snapshot())
    assert not killing.any_left(time.monotonic())
    leader.wait()


def test_kill_after_the_grace_is_one_that_cannot_be_ignored():
    leader = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 600; done"],
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    assert leader.stdout.readline() == b"ready\n"
    kill_all(Killing(leader.pid, time.monotonic() + 0.1))
    assert leader.wait() == -9
    leader.stdout.close()
