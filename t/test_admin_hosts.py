"""What harpcallerd does about hosts and their certificates, with a dispatcher that runs
and without one."""

import json
import os
import pwd
import re
import socket
import ssl
import subprocess

import pytest
import terminals
from dispatchers import HARPCALLERD, HOST, PASSWORD, Daemon, Dispatcher, host_entry
from harp import certificate as certificates
from harp import protocol, testing
from harp.errors import Refusal
from harp.protocol import hostadmin
from harp.protocol.admin import ADMIN_PARSERS

NOT_CARRIED_OUT = 4
UNREACHABLE = 69
WRONG = "0" * 64
QUEUE = '{"q": 1}'


@pytest.fixture
def make_dispatcher(request, tmp_path):
    """``make_dispatcher(*hosts, start=True, script=None, **changes)`` makes one for
    this test: with such hosts, or with a script for them."""

    def make(*hosts, start=True, script=None, **changes):
        dispatcher = Dispatcher(tmp_path / "dispatcher", hosts, **changes)
        if script is not None:
            dispatcher.configure(hosts={"script": script})
        dispatcher.start()
        request.addfinalizer(dispatcher.stop)
        if not start:
            dispatcher.stop()
        return dispatcher

    return make


class Ran:
    """What a run of the command gave."""

    def __init__(self, process):
        self.status = process.returncode
        self.printed = process.stdout.decode()
        self.errors = process.stderr.decode()

    def values(self):
        return [json.loads(line) for line in self.printed.splitlines()]

    def value(self):
        [value] = self.values()
        return value


def run(dispatcher, *arguments, lines=b""):
    """Run harpcallerd with arguments, and lines on its standard input."""
    return Ran(
        subprocess.run(
            [*HARPCALLERD, "-c", dispatcher.config_file, *arguments],
            input=lines,
            capture_output=True,
            timeout=60,
        )
    )


def run_on_terminal(dispatcher, *arguments, answer=b"", status=0):
    """Run harpcallerd on a terminal where somebody types; return what stood there at
    the end."""
    command = [*HARPCALLERD, "-c", dispatcher.config_file, *arguments]
    return terminals.run_on_terminal(command, status=status, answer=answer)


def line_of(hostname, address="10.0.0.1", **more):
    return json.dumps(host_entry((address, 4306), hostname, **more)).encode() + b"\n"


def hosts_file(dispatcher):
    return dispatcher.directory / "hosts"


def names(dispatcher):
    return [host["hostname"] for host in run(dispatcher, "hosts-list").values()]


# --- hosts-list ---------------------------------------------------------------------


def test_hosts_are_listed_without_credentials(make_dispatcher):
    dispatcher = make_dispatcher(
        host_entry(("10.0.0.2", 5), "b"), host_entry(("10.0.0.1", 4306), "a")
    )
    listed = run(dispatcher, "hosts-list")
    assert listed.values() == [
        {"hostname": "a", "address": "10.0.0.1", "port": 4306},
        {"hostname": "b", "address": "10.0.0.2", "port": 5},
    ]
    table = run_on_terminal(dispatcher, "hosts-list")
    assert table.splitlines() == [
        "HOSTNAME  ADDRESS   PORT",
        "a         10.0.0.1  4306",
        "b         10.0.0.2     5",
    ]
    assert PASSWORD not in table + listed.printed


def test_listing_needs_a_dispatcher(make_dispatcher):
    listed = run(make_dispatcher(start=False), "hosts-list")
    assert listed.status == UNREACHABLE
    assert "is the dispatcher running on this machine?" in listed.errors
    assert listed.errors.count("?") == 1


# --- hosts-refresh ------------------------------------------------------------------


@pytest.fixture
def make_script(tmp_path):
    """``make_script(text)`` makes or replaces a program and returns its path."""

    def make(text):
        new = tmp_path / "new"
        new.write_text(f"#!/bin/sh\n{text}\n")
        new.chmod(0o755)
        return new.rename(tmp_path / "script")

    return make


def test_refresh_that_removes_more_than_half_needs_force(
    make_dispatcher, make_script, tmp_path
):
    source = tmp_path / "list"
    source.write_bytes(line_of("a") + line_of("b") + line_of("c"))
    dispatcher = make_dispatcher(script=make_script(f"cat {source}"))
    source.write_bytes(line_of("c", "10.0.0.9") + line_of("d") + b"garbage\n")

    diff = run(dispatcher, "hosts-refresh", "--diff")
    assert (diff.status, names(dispatcher)) == (NOT_CARRIED_OUT, ["a", "b", "c"])
    assert diff.value() == {
        "source": str(tmp_path / "script"),
        "before": 3,
        "found": 2,
        "came": ["d"],
        "went": ["a", "b"],
        "changed": ["c"],
        "skipped": 1,
        "applied": False,
        "fault": diff.value()["fault"],
    }
    forced = run(dispatcher, "hosts-refresh", "--diff", "--force").value()
    assert (forced["fault"], forced["applied"]) == (None, False)

    shown = run_on_terminal(dispatcher, "hosts-refresh", status=NOT_CARRIED_OUT)
    assert names(dispatcher) == ["a", "b", "c"]
    assert shown.splitlines()[:6] == [
        "- a",
        "- b",
        "~ c",
        "+ d",
        "3 hosts; 1 new (+), 2 gone (-), 1 changed (~)",
        "nothing was done",
    ]
    assert "would remove 2 of 3 hosts (a, b)" in shown and "--force" in shown

    [trouble] = dispatcher.admin("status")["degraded"]
    assert trouble["what"] == "hosts" and "would remove 2 of 3" in trouble["text"]
    assert run(dispatcher, "hosts-refresh", "--force").status == 0
    assert names(dispatcher) == ["c", "d"]
    [trouble] = dispatcher.admin("status")["degraded"]
    assert "line 3 is skipped: not JSON" in trouble["text"]
    source.write_bytes(line_of("c", "10.0.0.9") + line_of("d"))
    assert run(dispatcher, "hosts-refresh").status == 0
    assert dispatcher.admin("status")["degraded"] == []


def test_refresh_says_why_the_script_fails(make_dispatcher, make_script):
    dispatcher = make_dispatcher(script=make_script(""))
    script = make_script("exit 7")
    refreshed = run(dispatcher, "hosts-refresh")
    assert refreshed.status == NOT_CARRIED_OUT
    assert refreshed.errors == f"harpcallerd: {script}: exit status 7\n"


def test_dispatcher_stops_at_once_though_a_refresh_is_under_way(
    make_dispatcher, make_script, tmp_path, in_thread, wait_for
):
    dispatcher = make_dispatcher(script=make_script(""))
    make_script(f"touch {tmp_path}/runs\nsleep 60")
    refresh = in_thread(run, dispatcher, "hosts-refresh")
    wait_for((tmp_path / "runs").exists)
    assert dispatcher.stop() == 0
    assert refresh.result().status != 0
    assert "threads don't end" not in dispatcher.log()


def test_start_that_waits_for_the_script_can_be_stopped(
    make_dispatcher, make_script, tmp_path, wait_for
):
    dispatcher = make_dispatcher(start=False, script=make_script(""))
    make_script(f"touch {tmp_path}/runs\nsleep 60")
    with subprocess.Popen(
        [*HARPCALLERD, "-c", dispatcher.config_file], stderr=subprocess.PIPE
    ) as process:
        try:
            wait_for((tmp_path / "runs").exists)
            process.terminate()
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0 and b"Traceback" not in errors


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ({"refresh_hosts": 1}, '"refresh_hosts" must be true'),
        ({"refresh_hosts": True, "force": 1}, '"force" must be true or false'),
        ({"refresh_hosts": True, "dry_run": "x"}, '"dry_run" must be true or false'),
        ({"get_host": True}, '"get_host" must be a string'),
        ({"get_host": ""}, '"get_host" must not be empty'),
    ],
)
def test_request_that_is_none_is_refused(message, fault):
    with pytest.raises(Refusal, match=fault):
        protocol.parse_request({"harpcaller": 1, **message}, ADMIN_PARSERS)


def test_messages_are_read_as_they_were_built():
    for force, dry_run in [(False, False), (True, False), (False, True)]:
        request = hostadmin.build_refresh_hosts(force, dry_run)
        parsed = protocol.parse_request(request, ADMIN_PARSERS)
        assert parsed == hostadmin.RefreshHosts(force, dry_run)
    request = protocol.parse_request(hostadmin.build_get_host("a"), ADMIN_PARSERS)
    assert request == hostadmin.GetHost("a")
    refreshed = hostadmin.Refreshed(None, 1, 2, ["a"], [], ["b"], 0, True, None)
    reply = hostadmin.build_refreshed(refreshed)
    assert hostadmin.parse_refreshed(reply) == refreshed
    host = hostadmin.HostAddress("a", "b", 5, WRONG, "c")
    assert hostadmin.parse_host(hostadmin.build_host(host)) == host
    assert hostadmin.parse_host(hostadmin.build_host(None)) is None


def test_hosts_are_told_to_the_admin_socket_alone(make_dispatcher):
    dispatcher = make_dispatcher(host_entry(("10.0.0.1", 1), "a"))
    for message in (
        hostadmin.build_get_host("a"),
        hostadmin.build_refresh_hosts(force=True),
    ):
        assert dispatcher.ask(message)["error"]["type"] == "invalid_request"


# --- hosts-add, hosts-remove --------------------------------------------------------


def test_hosts_are_added_and_replaced_in_their_place(make_dispatcher):
    dispatcher = make_dispatcher()
    path = hosts_file(dispatcher)
    path.write_bytes(
        b"# ours\n" + line_of("a") + b"garbage\n\n" + line_of("b") + line_of("c")
    )
    path.chmod(0o640)
    new = line_of("b", "10.0.0.7") + b"\n# remark\n" + line_of("d") + line_of("c")
    added = run(dispatcher, "hosts-add", lines=new)
    assert (added.status, added.errors) == (0, "")
    assert [(row["hostname"], row["change"]) for row in added.values()] == [
        ("b", "replaced"),
        ("c", "unchanged"),
        ("d", "added"),
    ]
    assert PASSWORD not in added.printed
    assert path.read_bytes() == (
        b"# ours\n" + line_of("a") + b"garbage\n\n" + line_of("b", "10.0.0.7")
        + line_of("c") + line_of("d")
    )  # fmt: skip
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(dispatcher.directory).count("hosts") == 1
    # It has been read when the command returns.
    assert names(dispatcher) == ["a", "b", "c", "d"]


def test_added_host_can_be_called(make_dispatcher, daemon, certificate):
    dispatcher = make_dispatcher()
    entry = host_entry(daemon.address, cert_sha256=certificate.sha256)
    run(dispatcher, "hosts-add", lines=json.dumps(entry).encode())
    assert dispatcher.result(dispatcher.call("echo", 5)) == {"result": [5]}


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (line_of("x") + b'{"hostname": "y"}\n', 'line 2: "credentials" is missing'),
        (line_of("x") + line_of("x"), "'x' stands there twice"),
        (b"", "no line on standard input"),
        (b"# x\n", "no line on standard input"),
        (b"\xff\n", "line 1: not UTF-8"),
    ],
)
def test_faulty_lines_change_nothing(make_dispatcher, lines, fault):
    dispatcher = make_dispatcher(start=False)
    hosts_file(dispatcher).write_bytes(line_of("a"))
    added = run(dispatcher, "hosts-add", lines=lines)
    assert added.status == NOT_CARRIED_OUT
    assert fault in added.errors and "nothing was changed" in added.errors
    assert added.printed == "" and PASSWORD not in added.errors
    assert hosts_file(dispatcher).read_bytes() == line_of("a")


def test_file_is_made_for_the_owner_of_its_directory_alone(make_dispatcher):
    dispatcher = make_dispatcher(start=False)
    hosts_file(dispatcher).unlink()
    if os.geteuid() == 0:
        os.chown(dispatcher.directory, 65534, -1)
    assert run(dispatcher, "hosts-add", lines=line_of("a")).status == 0
    made = hosts_file(dispatcher).stat()
    assert made.st_mode & 0o777 == 0o600
    assert made.st_uid == dispatcher.directory.stat().st_uid
    os.chown(dispatcher.directory, os.geteuid(), -1)


def test_client_that_leaves_during_a_refresh_holds_no_thread(
    make_dispatcher, make_script, tmp_path, wait_for
):
    script = make_script(
        f"[ ! -e {tmp_path}/wait ] || touch {tmp_path}/runs\n"
        f"while [ -e {tmp_path}/wait ]; do sleep 0.02; done\n"
    )
    dispatcher = make_dispatcher(script=script)
    (tmp_path / "wait").touch()
    with dispatcher.connect_unix("control") as client:
        client.send({"harpcaller": 1, "refresh_hosts": True})
        wait_for((tmp_path / "runs").exists)
        threads = dispatcher.threads()
    wait_for(lambda: dispatcher.threads() < threads)
    (tmp_path / "wait").unlink()
    assert run(dispatcher, "hosts-refresh").status == 0


def test_log_tells_who_has_asked_for_what(make_dispatcher, daemon, certificate):
    dispatcher = make_dispatcher(
        host_entry(daemon.address, cert_sha256=certificate.sha256)
    )
    job_id = dispatcher.call("wait", queue={"name": {"q": 1}})
    for action in (
        *(["reload"], ["prune-jobs", "--age", "2d"], ["hosts-refresh"]),
        *(["cancel", job_id], ["queue-cancel", QUEUE], ["reopen-logs"], ["stop"]),
    ):
        done = run(dispatcher, *action)
        assert done.status == 0, (action, done.errors)
    user = pwd.getpwuid(os.getuid()).pw_name
    log = dispatcher.log()
    for text in (
        "reload is wanted",
        "removing old jobs",
        "refresh of the hosts is wanted",
        f'cancelled {{"job": "{job_id}",',
        "cancelling a queue",
        "log files opened again",
        "stopping",
    ):
        [line] = [line for line in log.splitlines() if text in line]
        assert re.search(rf'"by": "[a-z ]*{user}, process [0-9]+"', line), line


@pytest.mark.parametrize("action", [("hosts-add",), ("hosts-remove", "a")])
def test_without_a_file_nothing_can_be_changed(make_dispatcher, make_script, action):
    script = make_script("")
    dispatcher = make_dispatcher(script=script)
    refused = run(dispatcher, *action, lines=line_of("a"))
    assert refused.status == NOT_CARRIED_OUT
    assert f"the hosts come from the program {script} (hosts.script)" in refused.errors


def test_hosts_are_removed_by_name(make_dispatcher):
    dispatcher = make_dispatcher()
    hosts_file(dispatcher).write_bytes(
        line_of("a") + b"# keep\n" + line_of("b") + line_of("c") + line_of("b")
    )
    run(dispatcher, "hosts-refresh")
    removed = run(dispatcher, "hosts-remove", "b", "nowhere")
    assert removed.status == NOT_CARRIED_OUT
    assert "no host 'nowhere'" in removed.errors
    assert hosts_file(dispatcher).read_bytes() == (
        line_of("a") + b"# keep\n" + line_of("c")
    )
    assert names(dispatcher) == ["a", "c"]
    assert run(dispatcher, "hosts-remove", "c").status == 0
    # The last one: that looks like an accident.
    removed = run(dispatcher, "hosts-remove", "a")
    assert removed.status == NOT_CARRIED_OUT and "--force" in removed.errors
    assert names(dispatcher) == ["a"]


# --- reload -------------------------------------------------------------------------


def test_reload_applies_hosts_and_trust_or_neither(
    make_dispatcher, daemon, certificate, tmp_path, wait_for
):
    dispatcher = make_dispatcher(
        host_entry(daemon.address), host_entry(("10.0.0.1", 1), "other"), start=False
    )
    dispatcher.configure(trust={"known_certs_file": tmp_path / "known"})
    (tmp_path / "known").write_text(f"new {certificate.sha256}\n")
    dispatcher.start()
    assert names(dispatcher) == ["other", "web01"]
    (tmp_path / "hosts").write_bytes(
        json.dumps(host_entry(daemon.address, "new")).encode()
    )
    (tmp_path / "hosts").chmod(0o600)
    good = dispatcher.config_file.read_text()
    moved = good.replace(f"{dispatcher.directory}/hosts", f"{tmp_path}/hosts")
    bad = moved.replace(f"{tmp_path}/known", f"{tmp_path}/missing")
    dispatcher.config_file.write_text(bad)
    refused = run(dispatcher, "reload")
    assert refused.status != 0 and f"{tmp_path}/missing" in refused.errors
    run(dispatcher, "hosts-refresh")
    assert names(dispatcher) == ["other", "web01"]
    dispatcher.config_file.write_text(moved)
    assert run(dispatcher, "reload").status == 0
    wait_for(lambda: names(dispatcher) == ["new"])
    assert dispatcher.result(dispatcher.call(host="new")) == {"result": []}


# --- trust, untrust -----------------------------------------------------------------


@pytest.fixture
def make_trusting(make_dispatcher, daemon, tmp_path):
    """``make_trusting(start=True, text="")`` makes a dispatcher with a host and a file
    of known certificates that holds a text."""

    def make(text="# ours\n", start=True, **entry):
        (tmp_path / "known").write_text(text)
        return make_dispatcher(
            host_entry(daemon.address, **entry),
            start=start,
            trust={"known_certs_file": tmp_path / "known"},
        )

    return make


def outcome(dispatcher):
    [key] = dispatcher.result(dispatcher.call())
    return key


@pytest.mark.parametrize("start", [True, False])
def test_certificate_is_shown_and_trusted(
    make_trusting, daemon, certificate, tmp_path, start
):
    dispatcher = make_trusting(
        f"# ours\nweb01 {WRONG} # old\nweb02 {WRONG}\nweb01 {'1' * 64}\n", start
    )
    if start:
        assert outcome(dispatcher) == "error"
    trusted = run(dispatcher, "trust", HOST, "--yes")
    assert trusted.status == 0, trusted.errors
    encoded = ssl.PEM_cert_to_DER_cert(certificate.certificate.read_text())
    found = certificates.parse_certificate(encoded)
    assert trusted.value() == {
        "hostname": HOST,
        "address": daemon.address[0],
        "port": daemon.address[1],
        "presented": found._asdict() | {"names": list(found.names)},
        "registry": None,
        "known": [
            {"sha256": WRONG, "remark": "old"},
            {"sha256": "1" * 64, "remark": ""},
        ],
    }
    comment, new, kept = (tmp_path / "known").read_text().splitlines()
    assert (comment, kept) == ("# ours", f"web02 {WRONG}")
    assert new.startswith(f"web01 {certificate.sha256}  # ")
    assert certificates.date(found.not_after) in new
    assert not daemon.requests
    if start:
        assert outcome(dispatcher) == "result"
    again = run(dispatcher, "trust", HOST)
    assert again.status == 0 and "trusted already" in again.errors


def test_fingerprint_is_compared(make_trusting, certificate, tmp_path):
    dispatcher = make_trusting()
    for options in (["--fingerprint", WRONG], ["--fingerprint", WRONG, "--yes"]):
        refused = run(dispatcher, "trust", HOST, *options)
        assert refused.status == NOT_CARRIED_OUT
        assert f"not the certificate {WRONG}; nothing was changed" in refused.errors
    assert run(dispatcher, "trust", HOST, "--fingerprint", "x").status != 0
    assert outcome(dispatcher) == "error"
    pin = certificate.sha256.upper()
    written = ":".join(pin[n : n + 2] for n in range(0, 64, 2))
    assert run(dispatcher, "trust", HOST, "--fingerprint", written).status == 0
    assert outcome(dispatcher) == "result"


def test_nothing_is_trusted_without_confirmation(make_trusting, certificate, tmp_path):
    dispatcher = make_trusting()
    refused = run(dispatcher, "trust", HOST)
    assert refused.status == NOT_CARRIED_OUT
    assert "--fingerprint" in refused.errors
    for answer in (b"\n", b"no\n", b"\x04"):
        shown = run_on_terminal(
            dispatcher, "trust", HOST, answer=answer, status=NOT_CARRIED_OUT
        )
    assert (tmp_path / "known").read_text() == "# ours\n"
    assert f"presents   SHA-256 {certificate.sha256}\n" in shown
    assert re.search(r"  valid    20\d\d-\d\d-\d\d to 20\d\d-\d\d-\d\d\n", shown)
    assert "trusted    none so far\n" in shown
    assert "Trust it as web01 from now on? [y/N]" in shown
    shown = run_on_terminal(dispatcher, "trust", HOST, answer=b"y\n")
    assert "trusted from now on" in shown
    assert outcome(dispatcher) == "result"


@pytest.mark.parametrize("is_right", [True, False])
def test_pin_of_the_registry_is_told_and_left_alone(
    make_trusting, certificate, tmp_path, is_right
):
    pin = certificate.sha256 if is_right else WRONG
    dispatcher = make_trusting(cert_sha256=pin)
    trusted = run(dispatcher, "trust", HOST, "--yes")
    assert trusted.status == (0 if is_right else NOT_CARRIED_OUT)
    assert trusted.value()["registry"] == pin
    assert "in the registry pins" in trusted.errors
    assert (tmp_path / "known").read_text() == "# ours\n"


def test_host_is_untrusted(make_trusting, certificate, tmp_path):
    dispatcher = make_trusting(f"# ours\nweb01 {certificate.sha256} # x\nweb02 {WRONG}")
    assert outcome(dispatcher) == "result"
    assert run(dispatcher, "untrust", HOST).status == 0
    assert (tmp_path / "known").read_text() == f"# ours\nweb02 {WRONG}\n"
    assert outcome(dispatcher) == "error"
    again = run(dispatcher, "untrust", HOST)
    assert again.status == NOT_CARRIED_OUT and "no line for 'web01'" in again.errors


def test_what_can_not_be_trusted_is_told(make_dispatcher, scripted_peer):
    plain = scripted_peer(lambda connection: connection.send(b'{"harp": 1}\n'))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()
    dispatcher = make_dispatcher(
        host_entry(plain.address, "plain"), host_entry(closed, "closed")
    )
    for host, text in (
        ("nowhere", "no host 'nowhere' in the registry"),
        ("plain", "plain (127.0.0.1 port "),
        ("plain", "doesn't speak TLS"),
        ("closed", "Connection refused"),
    ):
        refused = run(dispatcher, "trust", host, "--yes")
        assert refused.status == NOT_CARRIED_OUT
        assert text in refused.errors and refused.errors.count("\n") == 1
    untrusted = run(dispatcher, "untrust", "plain")
    assert "trust.known_certs_file is not set" in untrusted.errors


def test_key_that_is_missing_is_named_after_the_certificate_is_shown(
    make_dispatcher, daemon, certificate
):
    dispatcher = make_dispatcher(host_entry(daemon.address))
    refused = run(dispatcher, "trust", HOST, "--yes")
    assert refused.status == NOT_CARRIED_OUT
    assert refused.value()["presented"]["sha256"] == certificate.sha256
    assert "set trust.known_certs_file in" in refused.errors


def test_certificate_that_ends_soon_stands_in_the_status(
    make_dispatcher, daemon, certificate
):
    dispatcher = make_dispatcher(
        host_entry(daemon.address, cert_sha256=certificate.sha256),
        trust={"expiry_warning": "10000d"},
    )
    assert dispatcher.admin("status")["degraded"] == []
    for _ in range(3):
        assert outcome(dispatcher) == "result"
    [entry] = dispatcher.admin("status")["degraded"]
    assert entry["what"] == "certificates" and f"first {HOST}: 20" in entry["text"]
    assert dispatcher.log().count("certificate is about to expire") == 1


def test_control_characters_of_a_certificate_stay_off_the_terminal(
    make_dispatcher, request, tmp_path
):
    made = testing.make_certificate(tmp_path)
    subprocess.run(
        ["openssl", "req", "-x509", "-key", made.key, "-out", made.certificate]
        + ["-utf8", "-subj", "/CN=a\x1b[31mb"],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    daemon = Daemon(context)
    request.addfinalizer(daemon.stop)
    (tmp_path / "known").touch()
    dispatcher = make_dispatcher(
        host_entry(daemon.address), trust={"known_certs_file": tmp_path / "known"}
    )
    shown = run_on_terminal(dispatcher, "trust", HOST, answer=b"y\n")
    assert r"CN=a\x1b[31mb" in shown and "\x1b" not in shown
    assert "\x1b" not in (tmp_path / "known").read_text()
