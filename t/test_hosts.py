"""The registry of hosts: doc/protocol.rst, "Hosts registry"."""

import json
import os
import time

import pytest
from harp import config
from harp.dispatcher import hosts as hosts_module
from harp.dispatcher.hosts import (
    Host,
    Hosts,
    parse_fingerprint,
    parse_host,
    parse_hosts,
)
from harp.errors import Refusal

PIN = "0123456789abcdef" * 4


def entry(hostname="web01", **changes):
    return {
        "hostname": hostname,
        "address": "10.0.0.1",
        "credentials": {"user": "harp", "password": "sesame"},
    } | changes


def lines(*entries):
    return "".join(json.dumps(one) + "\n" for one in entries)


@pytest.fixture
def make_hosts(tmp_path, request):
    """``make_hosts(hosts={...})`` starts a registry with that configuration."""

    def make(start=True, **settings):
        checked = config.check({"hosts": settings}, config.DispatcherConfig, "test")
        hosts = Hosts(checked)
        request.addfinalizer(hosts.stop)
        if start:
            hosts.start()
        return hosts

    return make


@pytest.fixture
def make_script(tmp_path):
    def make(text, name="script"):
        path = tmp_path / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return str(path)

    return make


def known(hosts):
    return [host.hostname for host in hosts.all()]


# --- lines --------------------------------------------------------------------------


def test_line_with_all_fields_is_a_host():
    line = entry(port=99, cert_sha256=PIN, tls_name="web.example")
    assert parse_host(json.dumps(line).encode()) == Host(
        "web01", "10.0.0.1", 99, "harp", "sesame", PIN, "web.example"
    )


def test_port_and_tls_name_have_defaults():
    host = parse_host(json.dumps(entry()).encode())
    assert (host.port, host.tls_name, host.cert_sha256) == (4306, "web01", None)


BAD = [
    "garbage",
    "[]",
    "{}",
    entry(hostname=5),
    entry(hostname=""),
    entry(address=""),
    entry(address=None),
    entry(address="a\0b"),
    entry(port=0),
    entry(port=65536),
    entry(port="4306"),
    entry(port=True),
    entry(credentials=None),
    entry(credentials={"user": "harp"}),
    entry(credentials={"user": "harp", "password": 5}),
    entry(cert_sha256="abc"),
    entry(cert_sha256=5),
    entry(tls_name=5),
    '{"hostname":"a","hostname":"b"}',
    '{"hostname":NaN}',
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: str(bad)[:40])
def test_line_that_is_no_host_is_skipped_and_logged_without_its_content(bad, caplog):
    text = bad if isinstance(bad, str) else json.dumps(bad)
    output = lines(entry("before")) + text + "\n" + lines(entry("after"))
    assert list(parse_hosts(output.encode(), "the source")) == ["before", "after"]
    assert '"source": "the source", "line": 2' in caplog.text
    assert "sesame" not in caplog.text


def test_empty_lines_and_a_missing_newline_are_fine(caplog):
    output = "\n  \r\n" + lines(entry("a")) + "\n" + json.dumps(entry("b"))
    assert list(parse_hosts(output.encode(), "x")) == ["a", "b"]
    assert not caplog.records


def test_later_line_for_a_host_counts():
    output = lines(entry(port=1), entry(port=2))
    assert parse_hosts(output.encode(), "x")["web01"].port == 2


@pytest.mark.parametrize(
    "text", [PIN, PIN.upper(), ":".join(PIN[n : n + 2] for n in range(0, 64, 2))]
)
def test_fingerprint_may_be_written_as_openssl_does(text):
    assert parse_fingerprint(text) == PIN


@pytest.mark.parametrize("text", ["", PIN[1:], PIN + "0", "g" * 64, "sha256:" + PIN])
def test_what_is_no_fingerprint_is_refused(text):
    with pytest.raises(Refusal, match="64 hex digits"):
        parse_fingerprint(text)


# --- a file -------------------------------------------------------------------------


def test_hosts_are_read_from_a_file(make_hosts, tmp_path):
    (tmp_path / "hosts").write_text(lines(entry("b"), entry("a")))
    hosts = make_hosts(file=str(tmp_path / "hosts"))
    assert known(hosts) == ["a", "b"]
    assert hosts.get("a").user == "harp"
    assert hosts.get("c") is None


def test_file_that_changes_is_read_again(make_hosts, tmp_path, wait_for, monkeypatch):
    monkeypatch.setattr(hosts_module, "_FILE_CHECK_SECONDS", 0.01)
    path = tmp_path / "hosts"
    path.write_text(lines(entry("a")))
    hosts = make_hosts(file=str(path))
    path.write_text(lines(entry("a", port=5), entry("b")))
    wait_for(lambda: known(hosts) == ["a", "b"])
    assert hosts.get("a").port == 5
    path.unlink()
    path.with_name("new").write_text(lines(entry("c")))
    path.with_name("new").rename(path)
    wait_for(lambda: known(hosts) == ["c"])


def test_file_that_goes_leaves_the_hosts_as_they_are(
    make_hosts, tmp_path, wait_for, monkeypatch, caplog
):
    monkeypatch.setattr(hosts_module, "_FILE_CHECK_SECONDS", 0.01)
    path = tmp_path / "hosts"
    path.write_text(lines(entry("a")))
    hosts = make_hosts(file=str(path))
    path.unlink()
    wait_for(lambda: "hosts stay as they are" in caplog.text)
    assert known(hosts) == ["a"]
    assert caplog.text.count("hosts stay as they are") == 1


def test_file_that_is_not_there_yet_is_read_when_it_comes(
    make_hosts, tmp_path, wait_for, monkeypatch
):
    monkeypatch.setattr(hosts_module, "_FILE_CHECK_SECONDS", 0.01)
    hosts = make_hosts(file=str(tmp_path / "hosts"))
    assert known(hosts) == []
    (tmp_path / "hosts").write_text(lines(entry("a")))
    wait_for(lambda: known(hosts) == ["a"])


def test_change_is_logged_by_name_only(make_hosts, tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "hosts"
    path.write_text(lines(entry("stays"), entry("goes"), entry("changes")))
    hosts = make_hosts(start=False, file=str(path))
    assert hosts.refresh()
    caplog.clear()
    path.write_text(lines(entry("stays"), entry("changes", port=5), entry("comes")))
    assert hosts.refresh()
    [record] = caplog.records
    fields = json.loads(record.getMessage().removeprefix("hosts "))
    assert fields == {
        "known": 3,
        "came": ["comes"],
        "went": ["goes"],
        "changed": ["changes"],
    }
    assert "sesame" not in caplog.text
    assert hosts.refresh()
    assert len(caplog.records) == 1


def test_without_a_source_there_are_no_hosts(make_hosts):
    assert known(make_hosts()) == []


# --- a script -----------------------------------------------------------------------


def test_hosts_are_what_a_script_prints(make_hosts, make_script):
    script = make_script(f"cat <<'END'\n{lines(entry('a'), entry('b'))}END\n")
    assert known(make_hosts(script=script)) == ["a", "b"]


def test_script_is_run_again_and_again(make_hosts, make_script, tmp_path, wait_for):
    path = tmp_path / "list"
    path.write_text(lines(entry("a")))
    hosts = make_hosts(script=make_script(f"cat {path}\n"), refresh=0.01)
    path.with_name("new").write_text(lines(entry("b")))
    path.with_name("new").rename(path)
    wait_for(lambda: known(hosts) == ["b"])


FAILURES = {
    "exit status": ("echo '%s'; exit 3\n" % json.dumps(entry("x")), "exit status 3"),
    "signal": ("kill -9 $$\n", "exit status -9"),
    "too slow": ("sleep 60\n", "killed after 0.2 s"),
    "grandchild": ("sleep 60 & exit 0\n", "killed after 0.2 s"),
    "grandchild's output": ("(sleep 60; echo x) & wait\n", "killed after 0.2 s"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_script_that_fails_leaves_the_hosts_as_they_are(
    make_hosts, make_script, caplog, failure
):
    text, reason = FAILURES[failure]
    good = make_script(f"echo '{json.dumps(entry('a'))}'\n")
    hosts = make_hosts(start=False, script=good, timeout=0.2)
    assert hosts.refresh()
    make_script(text)
    before = time.monotonic()
    assert not hosts.refresh()
    assert time.monotonic() - before < 5
    assert known(hosts) == ["a"]
    assert reason in caplog.text
    # That nothing of it runs on is checked after each test.


def test_script_that_can_not_be_run_is_named(make_hosts, tmp_path, caplog):
    make_hosts(script=str(tmp_path / "nothing"))
    assert f"{tmp_path / 'nothing'}: No such file" in caplog.text


def test_standard_error_of_a_script_is_logged(make_hosts, make_script, caplog):
    caplog.set_level("INFO")
    make_hosts(script=make_script("echo first >&2; printf '\\377second' >&2\n"))
    says = [r.getMessage() for r in caplog.records if "script says" in r.getMessage()]
    assert len(says) == 2 and "first" in says[0] and "second" in says[1]


def test_stop_ends_a_script_that_runs(make_hosts, make_script, in_thread, wait_for):
    hosts = make_hosts(start=False, script=make_script("sleep 60 & wait\n"))
    refresh = in_thread(hosts.refresh)
    wait_for(lambda: hosts._script is not None)
    before = time.monotonic()
    hosts.stop()
    assert refresh.result() is False
    assert time.monotonic() - before < 5


def test_service_that_a_script_leaves_behind_is_left_alone(
    make_hosts, make_script, tmp_path, wait_for
):
    pid_file = tmp_path / "pid"
    script = make_script(f"sleep 60 >/dev/null 2>&1 & echo $! >{pid_file}\n")
    hosts = make_hosts(start=False, script=script)
    assert hosts.refresh()
    pid = int(pid_file.read_text())
    os.kill(pid, 9)  # raises if it isn't there


# --- the cache ----------------------------------------------------------------------


def test_good_list_is_kept_for_a_start_whose_script_fails(
    make_hosts, make_script, tmp_path, caplog
):
    cache = tmp_path / "cache"
    script = make_script(f"echo '{json.dumps(entry('a'))}'\n")
    make_hosts(script=script, cache=str(cache)).stop()
    assert cache.stat().st_mode & 0o777 == 0o600
    make_script("exit 1\n")
    hosts = make_hosts(script=script, cache=str(cache))
    assert known(hosts) == ["a"]
    assert "hosts are those of the cache" in caplog.text


def test_cache_that_others_could_read_is_replaced(make_hosts, make_script, tmp_path):
    cache = tmp_path / "cache"
    for path in (cache, tmp_path / "cache.new"):
        path.write_text("x")
        path.chmod(0o644)
    script = make_script(f"echo '{json.dumps(entry('a'))}'\n")
    make_hosts(script=script, cache=str(cache))
    assert cache.stat().st_mode & 0o777 == 0o600
    assert json.loads(cache.read_text()) == entry("a")
    assert not (tmp_path / "cache.new").exists()


def test_cache_that_can_not_be_written_does_no_harm(
    make_hosts, make_script, tmp_path, caplog
):
    script = make_script(f"echo '{json.dumps(entry('a'))}'\n")
    hosts = make_hosts(script=script, cache=str(tmp_path / "no" / "cache"))
    assert known(hosts) == ["a"]
    assert "can't write the hosts' cache" in caplog.text


def test_missing_cache_is_logged(make_hosts, make_script, tmp_path, caplog):
    hosts = make_hosts(script=make_script("exit 1\n"), cache=str(tmp_path / "cache"))
    assert known(hosts) == []
    assert "no hosts from the cache either" in caplog.text


def test_failing_script_does_not_overwrite_the_cache(make_hosts, make_script, tmp_path):
    cache = tmp_path / "cache"
    cache.write_text(lines(entry("a")))
    make_hosts(script=make_script("echo '{}'; exit 1\n"), cache=str(cache))
    assert cache.read_text() == lines(entry("a"))
