"""harpd as a service: start and what prevents it, reload, stop, the death of its
parts."""

import contextlib
import os
import signal
import socket
import subprocess

import pytest
from daemon_setup import (  # noqa: F401
    HARPD,
    PASSWORD,
    PROCEDURES,
    USER,
    Harpd,
    children_of,
    error_of,
    is_alive,
    make_harpd,
    needs_root,
    request,
)

from conftest import LIB


def run(program: Harpd) -> tuple[int, str]:
    """Return exit status and standard error of a daemon that doesn't start."""
    process = subprocess.run(
        program.argv, capture_output=True, text=True, timeout=30, stdin=subprocess.PIPE
    )
    assert "Traceback" not in process.stderr
    assert process.stdout == ""
    return process.returncode, process.stderr


# --- start --------------------------------------------------------------------------


def test_every_fault_of_the_configuration_is_named_and_nothing_starts(make_harpd):
    daemon = make_harpd(start=False, limits={"calls": 0}, lisen=1)
    status, text = run(daemon)
    assert status == 78
    assert text.count("\n") == 2
    assert "limits.calls: must be at least 1" in text and "lisen: unknown key" in text


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"tls": {"certificate": "/nope.pem"}}, "tls.certificate: /nope.pem: No such"),
        ({"tls": {"key": "/nope.pem"}}, "tls.key: /nope.pem: No such"),
        ({"tls": {"key": "/dev/null"}}, "can't be used"),
        ({"password_file": "/nope"}, "password_file: /nope: No such file"),
        ({"users": {"x": "secret"}}, "users.x: password must be written as"),
        ({"users": {"x": "sha256:abc"}}, "users.x: sha256: must be followed by 64 hex"),
        ({"procedures": {"user": "nope"}}, "procedures.user: no user is called 'nope'"),
    ],
)
def test_what_the_configuration_names_must_be_usable(make_harpd, changes, text):
    status, output = run(make_harpd(start=False, **changes))
    assert status == 78
    assert text in output and output.count("\n") == 1
    assert "secret" not in output


@needs_root
def test_root_must_say_whom_procedures_run_as(make_harpd):
    daemon = make_harpd(start=False)
    daemon.config_file.write_text(
        daemon.config_file.read_text().replace('user = "root"\n', "")
    )
    status, text = run(daemon)
    assert status == 78
    assert "procedures.user: must be set when harpd runs as root" in text


def test_address_in_use_is_named(make_harpd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, text = run(make_harpd(start=False, listen=[address]))
    assert status == 1
    assert text == f"harpd: can't listen on {address}: Address already in use\n"


@pytest.mark.parametrize(
    "source, text",
    [
        ("x = (\n", "procedures.py:1: '(' was never closed"),
        ("\nimport nothing_of_that_name\n", "procedures.py:2: ModuleNotFoundError: No"),
        ("import sys\nsys.exit(3)\n", "procedures.py:2: SystemExit: 3"),
        ("def f():\n  1/0\nf()\n", "procedures.py:2: ZeroDivisionError"),
        ("import json\njson.loads('x')", "procedures.py:2: json.decoder.JSONDecodeErr"),
        (
            "from harp import procedure\n@procedure\ndef a(): pass\n"
            "@procedure\ndef a(): pass\n",
            "procedures.py:4: another procedure is called 'a': ",
        ),
        (
            "from harp import procedure\n@procedure\ndef a(): pass\n"
            "@procedure(name='a')\ndef b(): pass\n",
            "procedures.py:4: another procedure is called 'a': ",
        ),
        (
            "from harp import procedure\n@procedure\nasync def a(): pass\n",
            "procedures.py:2: TypeError: a procedure can't be",
        ),
        ("import os\nos._exit(9)\n", "ended while it loaded the procedures, status 9"),
    ],
)
def test_procedures_that_do_not_load_are_refused_with_line_and_reason(
    make_harpd, tmp_path, source, text
):
    file = tmp_path / "procedures.py"
    file.write_text(source)
    status, output = run(make_harpd(file, start=False))
    assert status == 1
    assert text in output and output.count("\n") == 1


def test_missing_procedures_file_is_named(make_harpd, tmp_path):
    status, text = run(make_harpd(tmp_path / "nope.py", start=False))
    assert status == 1
    assert text == f"harpd: {tmp_path}/nope.py: No such file or directory\n"


def test_directory_and_environment_do_not_decide_what_is_imported(
    make_harpd, tmp_path, monkeypatch
):
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    file = tmp_path / "procedures.py"
    file.write_text(
        "import json, os\nfrom harp import procedure\n"
        "@procedure\ndef where():\n"
        "    return [json.__file__, 'NOTIFY_SOCKET' in os.environ]\n"
    )
    daemon = make_harpd(file, start=False)
    monkeypatch.undo()
    daemon._env["PYTHONPATH"] = str(tmp_path / "other")
    daemon.start()
    path, notified = daemon.end("where")["result"]
    assert not path.startswith(str(tmp_path)) and not notified


def test_harpd_runs_through_a_symbolic_link(make_harpd, tmp_path):
    link = tmp_path / "harpd"
    link.symlink_to(HARPD[-1])
    daemon = make_harpd(start=False)
    daemon.argv[1] = str(link)
    daemon.start()
    assert daemon.end("echo", 1) == {"result": 1}


def test_listens_on_all_addresses_that_are_configured(make_harpd):
    daemon = make_harpd(listen=["127.0.0.1:0", "[::1]:0"])
    assert [address.rpartition(":")[0] for address in daemon.addresses] == [
        "127.0.0.1",
        "[::1]",
    ]


# --- users --------------------------------------------------------------------------


def test_users_of_the_password_file_are_read_again_when_it_changes(
    make_harpd, tmp_path, wait_for
):
    # The SHA-256 of "one" and "two".
    one = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    two = "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"
    file = tmp_path / "passwords"
    file.touch(mode=0o600)
    file.write_text(f"# comment\nadmin:sha256:{one}\nbroken\nplain:plain:x\n")
    daemon = make_harpd(password_file=str(file))

    def try_password(password, user="admin"):
        with daemon.connect() as caller:
            caller.send_message(request("echo", [1], user, password))
            return caller.messages()[-1]

    ok = {"result": 1}
    assert try_password("one") == ok and try_password("two") != ok
    assert try_password("x", "plain") != ok
    assert '"line": 3' in daemon.log() and '"line": 4' in daemon.log()
    file.write_text(f"admin:sha256:{one}\nadmin:sha256:{two}\n")
    assert try_password("one") == ok and try_password("two") == ok
    file.write_text(f"admin:sha256:{two}\n# of another length\n")
    assert try_password("one") != ok and try_password("two") == ok
    file.unlink()
    assert try_password("two") == ok
    assert "what it held before counts" in daemon.log()
    assert try_password(PASSWORD, USER) == ok


# --- stop ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_ends_running_calls_with_shutdown_and_leaves_no_process(
    make_harpd, number
):
    daemon = make_harpd()
    with daemon.begin("stubborn") as stubborn, daemon.begin("compute") as caller:
        stubborn.message(), caller.message()
        pids = stubborn.message()["stream"] + [caller.message()["stream"]]
        pids += [daemon.spawner(), *children_of(daemon.spawner())]
        os.kill(daemon.pid, number)
        assert error_of(caller.message()) == ("shutdown", "the daemon stops")
        assert error_of(stubborn.message())[0] == "shutdown"
    assert daemon._process.wait(15) == 0
    assert not any(map(is_alive, pids))


def test_stop_waits_for_no_caller_that_is_silent(make_harpd):
    daemon = make_harpd()
    with daemon.connect() as silent, daemon.connect() as slow:
        slow.send(b"{")
        with socket.create_connection(("127.0.0.1", daemon.port)) as plain:
            assert daemon.end("echo", 1) == {"result": 1}
            os.kill(daemon.pid, signal.SIGTERM)
            assert error_of(silent.message())[0] == "shutdown"
            assert error_of(slow.message())[0] == "shutdown"
            plain.settimeout(10)
            assert plain.recv(1) == b""
    assert daemon.stop() == 0


# --- death --------------------------------------------------------------------------


def test_death_of_the_spawner_ends_all_calls_and_the_daemon(make_harpd, wait_for):
    daemon = make_harpd()
    with daemon.begin("compute") as caller:
        caller.message()
        pid = caller.message()["stream"]
        os.kill(daemon.spawner(), signal.SIGKILL)
        assert error_of(caller.message())[0] in ("process_died", "shutdown")
    assert daemon._process.wait(15) == 1
    wait_for(lambda: not is_alive(pid))
    assert "spawner died" in daemon.log()


def test_death_of_the_spawner_ends_what_calls_have_started(make_harpd, wait_for):
    daemon = make_harpd()
    with daemon.begin("stubborn") as caller:
        caller.message()
        pids = caller.message()["stream"]
        os.kill(daemon.spawner(), signal.SIGKILL)
        assert error_of(caller.message())[0] in ("process_died", "shutdown")
        assert not any(map(is_alive, pids))
    assert daemon._process.wait(15) == 1


def test_death_of_the_front_ends_the_spawner_and_all_calls(make_harpd, wait_for):
    daemon = make_harpd()
    with daemon.begin("stubborn") as caller:
        caller.message()
        pids = caller.message()["stream"]
        pids += [daemon.spawner(), *children_of(daemon.spawner())]
        daemon.kill()
        wait_for(lambda: not any(map(is_alive, pids)))


def test_spawner_ignores_the_signals_that_stop_the_daemon(make_harpd):
    daemon = make_harpd()
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(daemon.spawner(), number)
    assert daemon.end("echo", 1) == {"result": 1}


# --- reload -------------------------------------------------------------------------


def names_of_children(pid) -> list[str]:
    """Those of zombies, too."""
    path = f"/proc/{pid}/task/{pid}/children"
    with open(path, encoding="ascii") as file:
        children = file.read().split()
    names = []
    for child in children:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has gone
            with open(f"/proc/{child}/comm", encoding="utf-8") as file:
                names.append(file.read().strip())
    return names


def answer(name) -> str:
    return f"from harp import procedure\n@procedure\ndef which(): return {name!r}\n"


def test_reload_takes_new_procedures_and_leaves_running_calls_alone(
    make_harpd, tmp_path, wait_for
):
    file = tmp_path / "procedures.py"
    source = PROCEDURES.read_text()
    file.write_text(source + answer("old"))
    daemon = make_harpd(file)
    old_spawner = daemon.spawner()
    with daemon.begin("wait_until", str(tmp_path / "go")) as running:
        running.message()
        file.write_text(source + answer("new"))
        os.kill(daemon.pid, signal.SIGHUP)
        wait_for(lambda: daemon.end("which") == {"result": "new"})
        # Beside that call and the next spawner, one process for who came before.
        wait_for(lambda: len(children_of(old_spawner)) <= 3)
        (tmp_path / "go").touch()
        assert running.messages() == [{"result": "there"}]
    wait_for(lambda: not is_alive(old_spawner))
    assert daemon.end("which") == {"result": "new"}
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for(lambda: daemon.log().count(": reloaded") == 2)
    assert daemon.end("which") == {"result": "new"}


@pytest.mark.parametrize("fault", ["procedures", "configuration", "certificate"])
def test_reload_of_something_faulty_changes_nothing(
    make_harpd, tmp_path, certificate, wait_for, fault
):
    file = tmp_path / "procedures.py"
    file.write_text(answer("old"))
    daemon = make_harpd(file)
    if fault == "procedures":
        file.write_text("1/0\n")
    elif fault == "configuration":
        daemon.config_file.write_text("lisen = 1\n")
    else:
        daemon.write_config(certificate, {"tls": {"key": "/dev/null"}})
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for(lambda: "reload failed, all stays as it was" in daemon.log())
    assert daemon.end("which") == {"result": "old"}
    # A spawner whose procedures don't load leaves nothing of itself.
    wait_for(lambda: "harpd-spawner" not in names_of_children(daemon.spawner()))


def test_reload_says_each_time_what_waits_for_the_next_start(make_harpd, certificate):
    daemon = make_harpd()
    other = {"listen": ["127.0.0.2:0"]}
    for changes, told in [(other, 1), (other, 2), ({}, 2)]:
        daemon.write_config(certificate, changes)
        daemon.reload()
        assert daemon.log().count("listen changes at the next start only") == told


def test_reload_warns_where_nothing_is_left_to_call(make_harpd, tmp_path):
    file = tmp_path / "procedures.py"
    file.write_text(answer("old"))
    daemon = make_harpd(file)
    assert "nothing can be called" not in daemon.log()
    file.write_text("")
    daemon.reload()
    assert "nothing can be called: no @procedure" in daemon.log()


def test_reload_takes_new_users(make_harpd, certificate, wait_for):
    daemon = make_harpd()
    daemon.write_config(certificate, {"users": {USER: "plain:another"}})
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for(lambda: ": reloaded" in daemon.log())
    assert error_of(daemon.end("echo"))[0] == "auth_error"


SUCCESSOR = """
import dataclasses, os, sys
sys.path.insert(0, {lib!r})
from harp.daemon import control
from harp.daemon.children import Children, ProceduresFailed
from harp.daemon.options import Options, load_config
from harp.daemon.settings import for_start
options = Options({config!r}, procedures={good!r})
config = load_config(options)
first = Children.start(for_start(config, 64, options))
first.load(lambda: None)
{meanwhile}
try:
    second.load(lambda: None)
    print(*second.procedures)
except ProceduresFailed as error:
    print(error)
"""
FORGED = """
second = first.start_successor()
forged = for_start(dataclasses.replace(config, procedures_file={bad!r}), 64)
control.send(second._channel, control.SETTINGS, text=forged.to_text())
"""
WRITABLE = """
os.chmod({config!r}, 0o666)
second = first.start_successor()
"""


@pytest.mark.parametrize(
    ("meanwhile", "said"),
    [(FORGED, "good\n"), (WRITABLE, "harpd.toml: everybody can write it")],
)
def test_successor_of_the_spawner_goes_by_the_files_and_not_by_what_the_front_says(
    make_harpd, run_python, tmp_path, meanwhile, said
):
    """A front that has dropped root may have been taken over."""
    paths = {}
    for name in ("good", "bad"):
        text = f"from harp import procedure\n@procedure\ndef {name}(): pass\n"
        (tmp_path / f"{name}.py").write_text(text)
        paths[name] = str(tmp_path / f"{name}.py")
    paths["config"] = str(make_harpd(start=False).config_file)
    meanwhile = meanwhile.format(**paths)
    printed = run_python(SUCCESSOR.format(lib=str(LIB), meanwhile=meanwhile, **paths))
    assert said in printed and "bad" not in printed
