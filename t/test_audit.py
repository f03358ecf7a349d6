"""The dispatcher's audit log: a line for each call and cancel."""

import json
import os
import re
import stat
import threading

import pytest
from dispatchers import (
    HOST,
    Daemon,
    Dispatcher,
    call_request,
    echo,
    host_entry,
    request,
    wait_for_end,
)

USERS = {"panel": "plain:sesame", "guest": "plain:guest"}
PANEL = {"user": "panel", "password": "sesame"}
GUEST = {"user": "guest", "password": "guest"}
RIGHTS = {
    "panel": {"operations": ["*"]},
    "guest": {"operations": ["call", "cancel", "read"], "own_jobs": True},
}
NOBODY = "00000000-0000-7000-8000-000000000000"
_CALLS = 40


@pytest.fixture(scope="module")
def hosts(server_context, certificate):
    daemon = Daemon(server_context)
    daemon.scripts |= {"echo": echo, "wait": wait_for_end}
    yield [host_entry(daemon.address, HOST, cert_sha256=certificate.sha256)]
    daemon.stop()


@pytest.fixture
def path(tmp_path):
    directory = tmp_path / "audit"
    directory.mkdir()
    return directory / "log"


@pytest.fixture
def make_dispatcher(request, tmp_path, hosts, path):
    """``make_dispatcher(audit=None, **changes)`` starts one with an audit log."""

    def make(audit=None, **changes):
        audit = {"file": path, **(audit or {})}
        made = Dispatcher(
            tmp_path / "d",
            hosts,
            audit=audit,
            users=USERS,
            **{"authorization": RIGHTS} | changes,
        )
        made.start()
        request.addfinalizer(made.stop)
        return made

    return make


def lines(path) -> list[dict]:
    data = path.read_bytes()
    assert data.endswith(b"\n") or not data
    return [json.loads(line) for line in data.splitlines()]


def type_of(reply: dict) -> str:
    return reply["error"]["type"]


def test_call_is_noted_with_who_for_whom_from_where_and_what(make_dispatcher, path):
    with make_dispatcher().connect() as client:
        host, port = client.sock.getsockname()
        job_id = client.ask(
            call_request(
                "echo",
                "a value",
                auth=PANEL,
                on_behalf_of="alice",
                group="nightly",
                queue={"name": {"for": "web"}},
            )
        )["job_id"]
    [line] = lines(path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "operation": "call",
        "outcome": "accepted",
        "user": "panel",
        "on_behalf_of": "alice",
        "from": f"{host}:{port}",
        "job": job_id,
        "host": HOST,
        "procedure": "echo",
        "queue": {"for": "web"},
        "group": "nightly",
    }
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_cancel_is_noted_and_so_is_that_there_was_nothing_to_cancel(
    make_dispatcher, path
):
    with make_dispatcher().connect() as client:
        job_id = client.ask(call_request("wait", auth=PANEL))["job_id"]
        cancel = request("cancel", job_id, on_behalf_of="alice")
        assert client.ask(cancel) == {"cancelled": True}
        assert client.ask(cancel) == {"cancelled": False}
        assert client.ask(request("cancel", NOBODY)) == {"cancelled": False}
    _, done, again, unknown = lines(path)
    assert done["operation"] == "cancel" and done["outcome"] == "accepted"
    assert (done["user"], done["on_behalf_of"]) == ("panel", "alice")
    assert done["job"] == again["job"] == job_id and unknown["job"] == NOBODY
    for line in (again, unknown):
        assert line["outcome"] == "refused" and line["type"] == "invalid_jobid"


def test_cancel_of_a_job_that_cannot_be_read_is_noted(make_dispatcher, path):
    dispatcher = make_dispatcher()
    with dispatcher.connect() as client:
        job_id = client.ask(call_request("echo", 1, auth=GUEST))["job_id"]
        client.ask(request("get_result", job_id))
        file = dispatcher.done_path(job_id)
        file.write_bytes(file.read_bytes().replace(b"{", b"[", 1))
        assert type_of(client.ask(request("cancel", job_id))) == "storage_error"
    noted = lines(path)[-1]
    assert (noted["operation"], noted["outcome"]) == ("cancel", "refused")
    assert (noted["job"], noted["type"]) == (job_id, "storage_error")


def test_refused_call_is_noted_with_the_reason(make_dispatcher, path):
    dispatcher = make_dispatcher(limits={"arguments": 100})
    with dispatcher.connect() as client:
        assert type_of(client.ask(call_request("echo"))) == "auth_error"
        too_long = call_request("echo", "x" * 200, auth=PANEL)
        assert type_of(client.ask(too_long)) == "invalid_request"
        foreign = client.ask(call_request("wait"))["job_id"]
        reply = client.ask(request("cancel", foreign, auth=GUEST))
        assert reply == {"cancelled": False}
        assert client.ask(request("cancel", foreign, auth=PANEL)) == {"cancelled": True}
    anonymous, large, _, not_its_own, _ = lines(path)
    assert (anonymous["user"], anonymous["type"]) == (None, "auth_error")
    assert "anonymous clients may not" in anonymous["reason"]
    assert (large["user"], large["type"]) == ("panel", "invalid_request")
    assert "limits.arguments" in large["reason"]
    assert (not_its_own["user"], not_its_own["outcome"]) == ("guest", "refused")
    assert not_its_own["job"] == foreign


def test_cancel_of_a_queue_is_noted(make_dispatcher, path):
    queue = {"for": "web"}
    dispatcher = make_dispatcher()
    with dispatcher.connect() as client:
        call = call_request("wait", queue={"name": queue}, auth=PANEL)
        ids = [client.ask(call)["job_id"] for _ in range(2)]
        with dispatcher.connect_unix("control") as admin:
            assert "cancelled" in admin.ask(request("cancel_queue", queue))
        for job_id in ids:
            assert client.ask(request("get_result", job_id)) == {"cancelled": True}
    *_, line = lines(path)
    assert (line["operation"], line["queue"]) == ("cancel_queue", queue)


def test_what_only_reads_is_not_noted(make_dispatcher, path):
    with make_dispatcher().connect() as client:
        assert "hosts" in client.ask(request("list_hosts", True, auth=PANEL))
        assert type_of(client.ask(request("get_status", NOBODY))) == "invalid_jobid"
    assert lines(path) == []


def test_administrator_is_noted_by_the_system_user(make_dispatcher, path):
    import pwd

    with make_dispatcher().connect_unix("control") as client:
        assert "job_id" in client.ask(call_request("echo"))
    [line] = lines(path)
    assert line["user"] == pwd.getpwuid(os.getuid()).pw_name
    assert line["from"] == f"process {os.getpid()}"


def test_arguments_are_noted_only_where_configured_and_secrets_never(
    make_dispatcher, path
):
    dispatcher = make_dispatcher({"arguments": True}, secret_arguments=["password"])
    named = request(host=HOST, procedure="echo")
    named["arguments"] = {"name": "bob", "password": "hidden 1", "note": "hidden 2"}
    with dispatcher.connect() as client:
        client.send(
            named | {"secret": ["note"], "auth": PANEL},
            call_request("echo", "bob", "hidden 3", secret=[1]),
        )
        ids = [client.reply()["job_id"] for _ in range(2)]
        for job_id in ids:
            status = client.ask(request("get_status", job_id))
            assert "hidden" not in json.dumps(status)
        listed = client.ask(request("list_jobs", {}))
        assert len(listed["jobs"]) == 2 and "hidden" not in json.dumps(listed)
    first, second = lines(path)
    assert first["arguments"] == {"name": "bob", "password": "***", "note": "***"}
    assert second["arguments"] == ["bob", "***"]


def test_file_that_is_moved_away_is_made_anew(make_dispatcher, path):
    with make_dispatcher().connect() as client:
        assert "job_id" in client.ask(call_request("echo", auth=PANEL))
        old = path.rename(path.with_name("old"))
        assert "job_id" in client.ask(call_request("echo", "second"))
        path.unlink()
        assert "job_id" in client.ask(call_request("echo", "third"))
    assert len(lines(old)) == len(lines(path)) == 1


def test_lines_of_many_clients_are_whole(make_dispatcher, path):
    dispatcher = make_dispatcher({"arguments": True})

    def call() -> None:
        with dispatcher.connect() as client:
            for _ in range(_CALLS):
                client.ask(call_request("echo", "x" * 20_000, auth=PANEL))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = lines(path)
    assert len(written) == len({line["job"] for line in written}) == 4 * _CALLS


def test_hostile_text_makes_no_line_of_its_own(make_dispatcher, path):
    text = 'a\n{"operation":"call"}\u2028\x00\ud800'
    with make_dispatcher().connect() as client:
        client.ask(call_request("echo", host=text, on_behalf_of=text, auth=PANEL))
        client.ask(request("cancel", {"a": [text] * 1000}))
    call, cancel = lines(path)
    assert call["host"] == call["on_behalf_of"] == text
    assert len(cancel["job"]) <= 1000


def test_lines_of_calls_that_are_refused_are_bounded(make_dispatcher, path):
    """Or who may do nothing could fill the disk soon."""
    client_call = call_request("x" * 5000, "y" * 5000, secret=[0], group="z" * 5000)
    client_call |= {"queue": {"name": {"long": "q" * 5000}}, "auth": GUEST}
    client_call |= {"job_id": "i" * 5000, "on_behalf_of": "o" * 5000}
    dispatcher = make_dispatcher({"arguments": True}, authorization={})
    with dispatcher.connect() as client:
        assert type_of(client.ask(client_call)) == "auth_error"
        assert type_of(client.ask(client_call | {"secret": []})) == "auth_error"
    masked, long = lines(path)
    assert masked["arguments"] == ["***"] and masked["queue"][:8] == '{"long":'
    assert len(long["arguments"]) == 1000 and len(json.dumps(long)) < 8000


def test_no_call_runs_that_can_not_be_noted(make_dispatcher, path):
    """The directory of the log is gone: as a disk that isn't there any more."""
    dispatcher = make_dispatcher()
    with dispatcher.connect() as client:
        running = client.ask(call_request("wait", auth=PANEL))["job_id"]
        away = path.parent.rename(path.parent.with_name("away"))
        reply = client.ask(call_request("echo"))
        assert type_of(reply) == "storage_error" and str(path) in str(reply)
        assert len(client.ask(request("list_jobs", {}))["jobs"]) == 1
        degraded = dispatcher.admin("status")["degraded"]
        assert "audit" in [entry["what"] for entry in degraded]
        # What ends something is done, and noted when that is possible.
        assert client.ask(request("cancel", running)) == {"cancelled": True}
        assert type_of(client.ask(call_request("echo"))) == "storage_error"
        away.rename(path.parent)
        assert "job_id" in client.ask(call_request("echo"))
    degraded = dispatcher.admin("status")["degraded"]
    assert "audit" not in [entry["what"] for entry in degraded]
    operations = [(line["operation"], line["outcome"]) for line in lines(path)]
    assert operations == [("call", "accepted"), ("cancel", "accepted")] + [
        ("call", "accepted")
    ]
    assert "audit log can't be written" in dispatcher.log()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_line_that_finds_no_room_is_kept_and_calls_are_refused(
    make_dispatcher, path, tmp_path
):
    target = tmp_path / "target"
    target.touch()
    path.symlink_to(target)
    dispatcher = make_dispatcher()
    with dispatcher.connect() as client:
        path.unlink()
        path.symlink_to("/dev/full")
        # Only the write tells that there is no room: this one was under way.
        first = client.ask(call_request("echo", auth=PANEL))["job_id"]
        assert type_of(client.ask(call_request("echo"))) == "storage_error"
        path.unlink()
        path.symlink_to(target)
        second = client.ask(call_request("echo"))["job_id"]
    assert [line["job"] for line in lines(target)] == [first, second]
