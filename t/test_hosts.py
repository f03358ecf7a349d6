"""The registry of hosts: doc/protocol.rst, "Hosts registry"."""

import json
import os

import pytest
from harp import config
from harp.dispatcher import hosts as hosts_module
from harp.dispatcher import hostsource
from harp.dispatcher.hostlines import Host, parse_host, parse_hosts
from harp.dispatcher.hosts import Hosts, HostsError, check
from harp.protocol.hostadmin import Refreshed

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

    def make(**settings):
        hosts = Hosts(configuration(**settings))
        request.addfinalizer(hosts.stop)
        hosts.start()
        return hosts

    return make


def configuration(**settings):
    return config.check({"hosts": settings}, config.DispatcherConfig, "test")


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
def test_line_that_is_no_host_is_skipped_and_logged_without_its_content(
    bad, make_hosts, tmp_path, caplog
):
    text = bad if isinstance(bad, str) else json.dumps(bad)
    path = tmp_path / "hosts"
    path.write_text(lines(entry("after")) + text + "\n" + lines(entry("before")))
    hosts = make_hosts(file=str(path))
    assert known(hosts) == ["after", "before"]
    assert f'"source": "{path}", "line": 2' in caplog.text
    assert "line 2 is skipped: " in hosts.trouble().text
    assert "sesame" not in caplog.text
    assert len(check(configuration(file=str(path)))) == 1


def test_empty_lines_remarks_and_a_missing_newline_are_fine():
    output = "\n  \r\n# a\n" + lines(entry("a")) + "\n  # b\n" + json.dumps(entry("b"))
    found = parse_hosts(output.encode())
    assert (list(found.hosts), found.faults) == (["a", "b"], [])


def test_garbage_does_not_fill_the_log(make_hosts, tmp_path, caplog):
    (tmp_path / "hosts").write_text("garbage\n" * 1000 + lines(entry("a")))
    assert known(make_hosts(file=str(tmp_path / "hosts"))) == ["a"]
    assert caplog.text.count("line of the hosts is skipped") < 100
    assert '"lines": 1000' in caplog.text


def test_later_line_for_a_host_counts():
    output = lines(entry(port=1), entry(port=2))
    assert parse_hosts(output.encode()).hosts["web01"].port == 2


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
    hosts = make_hosts(file=str(path))
    caplog.clear()
    path.write_text(lines(entry("stays"), entry("changes", port=5), entry("comes")))
    assert hosts.refresh().result().applied
    [record] = caplog.records
    fields = json.loads(record.getMessage().removeprefix("hosts "))
    assert fields == {
        "known": 3,
        "came": ["comes"],
        "went": ["goes"],
        "changed": ["changes"],
    }
    assert "sesame" not in caplog.text
    assert hosts.refresh().result().applied
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
    "signal": ("kill -9 $$\n", "ended by signal 9"),
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
    hosts = make_hosts(script=good)
    make_script(text)
    hosts.apply(configuration(script=good, timeout=0.2))
    with pytest.raises(HostsError, match=reason):
        hosts.refresh().result()
    assert known(hosts) == ["a"]
    assert reason in caplog.text
    assert reason in hosts.trouble().text
    # That nothing of it runs on is checked after each test.


def test_script_that_can_not_be_run_is_named(make_hosts, tmp_path, caplog):
    make_hosts(script=str(tmp_path / "nothing"))
    assert f"{tmp_path / 'nothing'}: No such file" in caplog.text


def test_standard_error_of_a_script_is_logged(make_hosts, make_script, caplog):
    caplog.set_level("INFO")
    make_hosts(script=make_script("echo first >&2; printf '\\377second' >&2\n"))
    says = [r.getMessage() for r in caplog.records if "script says" in r.getMessage()]
    assert len(says) == 2 and "first" in says[0] and "second" in says[1]


def test_stop_ends_a_script_that_runs_and_the_wait_for_it(
    make_hosts, make_script, tmp_path, wait_for
):
    good = f"echo '{json.dumps(entry('a'))}'\n"
    hosts = make_hosts(script=make_script(good))
    make_script(f"touch {tmp_path}/runs; sleep 60 & wait\n")
    refresh = hosts.refresh()
    wait_for((tmp_path / "runs").exists)
    waits = hosts.refresh()
    wait_for(lambda: hosts._orders)
    hosts.stop()
    for one in (refresh, waits):
        with pytest.raises(HostsError):
            one.result()
    with pytest.raises(HostsError, match="stops"):
        hosts.refresh()
    assert known(hosts) == ["a"]


def test_stop_ends_a_start_that_waits_for_the_script(
    make_script, tmp_path, in_thread, wait_for
):
    script = make_script(f"touch {tmp_path}/runs; sleep 60 & wait\n")
    hosts = Hosts(configuration(script=script))
    start = in_thread(hosts.start)
    wait_for((tmp_path / "runs").exists)
    assert start.is_running
    hosts.stop()
    start.result()


def test_start_after_a_stop_ends_at_once(make_script):
    hosts = Hosts(configuration(script=make_script("sleep 60 & wait\n")))
    hosts.stop()
    hosts.start()
    hosts.stop()


def test_script_never_runs_twice_at_once(make_hosts, make_script, tmp_path):
    log = tmp_path / "log"
    script = make_script(
        f"mkdir {tmp_path}/lock || exit 1\n"
        f"echo x >>{log}; sleep 0.02; rmdir {tmp_path}/lock\n"
        f"echo '{json.dumps(entry('a'))}'\n"
    )
    hosts = make_hosts(script=script, refresh=0.001)
    asking = [hosts.refresh() for _ in range(10)]
    assert all(one.result().applied for one in asking)


def test_refresh_that_is_asked_for_during_another_sees_what_came_meanwhile(
    make_hosts, make_script, tmp_path, wait_for
):
    path = tmp_path / "list"
    path.write_text(lines(entry("a")))
    script = make_script(
        f"cat {path}; echo x >>{tmp_path}/runs\n"
        f"[ ! -e {tmp_path}/wait ] || until [ -e {tmp_path}/go ]; do sleep 0.01; done\n"
    )
    hosts = make_hosts(script=script)
    (tmp_path / "wait").touch()
    first = hosts.refresh()
    wait_for(lambda: len((tmp_path / "runs").read_text().split()) == 2)
    path.write_text(lines(entry("b")))
    second = hosts.refresh()
    wait_for(lambda: hosts._orders)
    (tmp_path / "go").touch()
    assert (first.result().came, second.result().came) == ([], ["b"])


def test_script_that_prints_without_end_is_stopped(
    make_hosts, make_script, monkeypatch, caplog
):
    monkeypatch.setattr(hostsource, "_MOST_BYTES", 1_000_000)
    make_hosts(script=make_script("exec yes\n"))
    assert "prints more than 1000000 bytes" in caplog.text


def test_failed_run_keeps_nothing_of_what_was_read(make_hosts, make_script):
    hosts = make_hosts(script=make_script("echo x; exit 1\n"))
    assert hosts.refresh().exception(timeout=60).__traceback__ is None


def test_standard_error_without_end_does_not_fill_the_log(
    make_hosts, make_script, monkeypatch, caplog
):
    monkeypatch.setattr(hostsource, "_MOST_REMARKS", 10)
    caplog.set_level("INFO")
    make_hosts(script=make_script("yes | head -n 100000 >&2\n"))
    assert caplog.text.count("script says {") == 10
    assert caplog.text.count("script says too much") == 1


def test_script_may_print_a_lot_to_both_sides(make_hosts, make_script, caplog):
    caplog.set_level("INFO")
    rest = json.dumps(entry()).partition(", ")[2]
    script = make_script(
        "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i >&2\n"
        f"""echo '{{"hostname":"h'$i'",{rest}'; done\n"""
    )
    assert len(make_hosts(script=script).all()) == 3000
    assert caplog.text.count("script says") == 3000


def test_service_that_a_script_leaves_behind_is_left_alone(
    make_hosts, make_script, tmp_path, wait_for
):
    pid_file = tmp_path / "pid"
    script = make_script(f"sleep 60 >/dev/null 2>&1 & echo $! >{pid_file}\n")
    make_hosts(script=script)
    pid = int(pid_file.read_text())
    os.kill(pid, 9)  # raises if it isn't there


# --- what is refused ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "is_taken"),
    [
        ("", "abcd", True),
        ("a", "b", True),
        ("a", "", False),
        ("ab", "c", True),
        ("ab", "a", True),
        ("ab", "", False),
        ("abc", "a", False),
        ("abc", "ab", True),
        ("abc", "xyz", False),
        ("abcd", "ab", True),
        ("abcd", "awxyz", False),
        ("abcd", "abwxyz", True),
        ("abcd", "", False),
    ],
)
def test_refresh_that_removes_more_than_half_is_refused_unless_forced(
    make_hosts, tmp_path, caplog, before, after, is_taken
):
    path = tmp_path / "hosts"
    path.write_text(lines(*map(entry, before)))
    hosts = make_hosts(file=str(path))
    path.write_text(lines(*map(entry, after)))
    refresh = hosts.refresh().result()
    assert refresh.applied is is_taken
    assert (refresh.fault is None) is is_taken
    assert known(hosts) == sorted(after if is_taken else before)
    if not is_taken:
        went = sorted(set(before) - set(after))
        assert f"remove {len(went)} of {len(before)} hosts (" in refresh.fault
        assert refresh.fault in caplog.text and json.dumps(went) in caplog.text
        assert hosts.trouble().text == refresh.fault
        assert hosts.refresh(force=True).result().applied
        assert known(hosts) == sorted(after)
    assert hosts.trouble() is None


def test_change_of_the_file_is_refused_once_and_works_when_it_is_mended(
    make_hosts, tmp_path, caplog, wait_for, monkeypatch
):
    monkeypatch.setattr(hosts_module, "_FILE_CHECK_SECONDS", 0.01)
    path = tmp_path / "hosts"
    path.write_text(lines(*map(entry, "abc")))
    hosts = make_hosts(file=str(path))
    path.write_text("")
    wait_for(hosts.trouble)
    path.write_text(lines(*map(entry, "bcd")))
    wait_for(lambda: known(hosts) == ["b", "c", "d"])
    assert hosts.trouble() is None
    assert caplog.text.count("hosts stay as they are") == 1


def test_dry_run_tells_what_it_would_do_and_does_nothing(make_hosts, tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "hosts"
    path.write_text(lines(*map(entry, "abc")))
    hosts = make_hosts(file=str(path))
    caplog.clear()
    path.write_text(lines(entry("a", port=5), entry("d")) + "garbage\n")
    refresh = hosts.refresh(dry_run=True).result()
    assert refresh.fault is not None
    assert refresh._replace(fault=None) == Refreshed(
        str(path), 3, 2, ["d"], ["b", "c"], ["a"], 1, False, None
    )
    assert known(hosts) == ["a", "b", "c"]
    assert not caplog.records and hosts.trouble() is None


def test_script_that_is_refused_leaves_the_cache_alone(
    make_hosts, make_script, tmp_path
):
    cache, path = tmp_path / "cache", tmp_path / "list"
    path.write_text(lines(*map(entry, "abc")))
    hosts = make_hosts(script=make_script(f"cat {path}\n"), cache=str(cache))
    good = cache.read_text()
    path.write_text("")
    assert not hosts.refresh().result().applied
    assert cache.read_text() == good
    assert hosts.refresh(force=True).result().applied
    assert cache.read_text() == ""


# --- another configuration ----------------------------------------------------------


def test_other_source_counts_from_the_reload_on(make_hosts, tmp_path, wait_for):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(lines(*map(entry, "abc")))
    second.write_text(lines(*map(entry, "xyz")))
    hosts = make_hosts(file=str(first))
    hosts.apply(configuration(file=str(second)))
    wait_for(lambda: known(hosts) == ["x", "y", "z"])
    hosts.apply(configuration())
    wait_for(lambda: known(hosts) == [])
    hosts.apply(configuration(file=str(first)))
    wait_for(lambda: known(hosts) == ["a", "b", "c"])


def test_check_names_what_a_start_would_miss(tmp_path):
    missing = tmp_path / "missing"
    [fault] = check(configuration(file=str(missing)))
    assert fault == f"hosts.file: {missing}: No such file or directory"
    [fault] = check(configuration(script=str(missing)))
    assert fault == f"hosts.script: {missing}: can't be run"
    assert check(configuration()) == []


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


@pytest.mark.parametrize(
    ("printed", "is_taken"),
    [("", False), ("a", False), ("ab", True), ("abcde", True), ("wxyz", False)],
)
def test_first_run_that_would_remove_more_than_half_of_the_cache_is_refused(
    make_hosts, make_script, tmp_path, caplog, printed, is_taken
):
    cache, path = tmp_path / "cache", tmp_path / "list"
    before = lines(*map(entry, "abcd"))
    cache.write_text(before)
    path.write_text(lines(*map(entry, printed)))
    hosts = make_hosts(script=make_script(f"cat {path}\n"), cache=str(cache))
    assert known(hosts) == list(printed if is_taken else "abcd")
    assert cache.read_text() == (path.read_text() if is_taken else before)
    assert (hosts.trouble() is None) is is_taken
    if not is_taken:
        assert "would remove" in hosts.trouble().text
        assert "hosts are those of the cache" in caplog.text
        assert hosts.refresh(force=True).result().applied
        assert known(hosts) == list(printed)


def test_failing_script_does_not_overwrite_the_cache(make_hosts, make_script, tmp_path):
    cache = tmp_path / "cache"
    cache.write_text(lines(entry("a")))
    make_hosts(script=make_script("echo '{}'; exit 1\n"), cache=str(cache))
    assert cache.read_text() == lines(entry("a"))
