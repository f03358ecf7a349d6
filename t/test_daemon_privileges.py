"""Who is root in harpd, and whose hands its files may be in."""

import grp
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from daemon_setup import (  # noqa: F401
    HARPD,
    Harpd,
    make_harpd,
    needs_root,
)
from harp import accounts, hands, testing

WHO = """
import os
from harp import procedure
@procedure(uid=0)
def who(): return os.getresuid()
@procedure
def name(): return {name!r}
"""


@pytest.fixture
def public():
    """A directory that every user can look into."""
    directory = Path(tempfile.mkdtemp(dir="/tmp", prefix="harp-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def ids_of(pid) -> dict[str, list[int]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {
        name: [int(number) for number in rest.split()]
        for name, _, rest in (line.partition(":") for line in lines)
        if name in ("Uid", "Gid", "Groups")
    }


def make_dropping_harpd(directory, **changes) -> Harpd:
    """Return harpd with a front that is nobody's, and files as the setup makes them."""
    nobody = pwd.getpwnam("nobody")
    certificate = testing.make_certificate(directory)
    procedures = directory / "procedures.py"
    procedures.write_text(WHO.format(name="first"))
    procedures.chmod(0o600)  # for the spawner alone
    changes = {"front": {"user": "nobody"}} | changes
    daemon = Harpd(directory, certificate, procedures, changes)
    certificate.certificate.chmod(0o644)
    for file in (certificate.key, daemon.config_file):
        os.chown(file, 0, nobody.pw_gid)
        file.chmod(0o640)
    return daemon


# --- the front ----------------------------------------------------------------------


@needs_root
def test_front_drops_root_and_the_spawner_alone_keeps_it(public):
    daemon = make_dropping_harpd(public)
    nobody = pwd.getpwnam("nobody")
    daemon.start()
    try:
        ids = ids_of(daemon.pid)
        assert ids["Uid"] == [nobody.pw_uid] * 4 and ids["Gid"] == [nobody.pw_gid] * 4
        assert ids["Groups"] == sorted(os.getgrouplist("nobody", nobody.pw_gid))
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        for capabilities in ("CapPrm", "CapEff"):
            assert f"{capabilities}:\t0000000000000000\n" in status
        assert ids_of(daemon.spawner())["Uid"] == [0] * 4
        assert daemon.end("who") == {"result": [0, 0, 0]}
    finally:
        assert daemon.stop() == 0


@needs_root
def test_front_takes_the_group_that_is_configured_and_no_other(public):
    gid = grp.getgrnam("daemon").gr_gid
    daemon = make_dropping_harpd(public, front={"user": "nobody", "group": "daemon"})
    for file in (public / "key.pem", daemon.config_file):
        os.chown(file, 0, gid)
    daemon.start()
    try:
        ids = ids_of(daemon.pid)
        assert ids["Gid"] == [gid] * 4 and ids["Groups"] == [gid]
    finally:
        daemon.stop()


@needs_root
def test_reload_works_after_root_was_dropped(public, wait_for):
    daemon = make_dropping_harpd(public)
    daemon.start()
    try:
        (public / "procedures.py").write_text(WHO.format(name="second"))
        first = daemon.spawner()
        daemon.reload()
        assert ": reloaded" in daemon.log()
        assert daemon.end("name") == {"result": "second"}
        assert daemon.end("who") == {"result": [0, 0, 0]}
        assert ids_of(daemon.pid)["Uid"][0] != 0
        wait_for(lambda: not os.path.exists(f"/proc/{first}"))
        # A user for procedures must still be there, although this one isn't root.
        text = daemon.config_file.read_text()
        daemon.config_file.write_text(text.replace('user = "root"\n', ""))
        daemon.reload()
        assert "procedures.user: must be set when harpd runs as root" in daemon.log()
        assert daemon.end("name") == {"result": "second"}
    finally:
        daemon.stop()


@needs_root
@pytest.mark.parametrize("action", ["start", "-t"])
def test_file_that_the_front_could_not_read_again_is_refused(public, action):
    daemon = make_dropping_harpd(public)
    (public / "key.pem").chmod(0o600)
    daemon.config_file.chmod(0o600)
    options = ["-t"] if action == "-t" else []
    done = subprocess.run(
        daemon.argv + options, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 78
    assert f"tls.key: {public}/key.pem: Permission denied" in done.stderr
    assert f"can't read {daemon.config_file}: Permission denied" in done.stderr


@needs_root
def test_daemon_in_the_background_reloads_and_stops_after_root_was_dropped(public):
    daemon = make_dropping_harpd(public)
    (public / "log").mkdir()
    shutil.chown(public / "log", "nobody")
    (public / "logging.toml").write_text(
        'root = {handlers = ["f"], level = "INFO"}\n[handlers.f]\n'
        f'class = "logging.FileHandler"\nfilename = "{public}/log/harpd"\n'
    )
    pid_file = public / "run" / "pid"
    arguments = ["-p", pid_file, "-l", public / "logging.toml"]

    def do(action) -> subprocess.CompletedProcess:
        command = daemon.argv + [*map(str, arguments), action]
        return subprocess.run(command, capture_output=True, text=True, timeout=50)

    done = do("start")
    assert done.returncode == 0, done.stderr
    pid = int(pid_file.read_text())
    try:
        assert ids_of(pid)["Uid"][0] != 0
        assert pid_file.stat().st_uid == 0  # the front can't name another process
        assert do("reload").returncode == 0
        (public / "procedures.py").write_text("1/0\n")
        done = do("reload")
        assert done.returncode == 1 and "ZeroDivisionError" in done.stderr
    finally:
        stopped = do("stop").returncode
        if stopped != 0:
            os.kill(pid, signal.SIGKILL)
    assert stopped == 0
    assert do("status").returncode == 3
    assert "stopped" in (public / "log" / "harpd").read_text()


BECOME = """
import os, sys
sys.path.insert(0, {lib!r})
from harp import accounts
accounts.become(accounts.find("nobody", {group!r}))
print(os.getresuid()[0], os.getresgid()[0], sorted(os.getgroups()))
for regain in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0),
               lambda: os.setgid(0), lambda: os.setgroups([0])):
    try:
        regain()
    except PermissionError:
        continue
    print("regained")
"""


@needs_root
@pytest.mark.parametrize("group", [None, "daemon", ["daemon", "bin", 0]])
def test_who_has_become_another_user_cannot_be_root_again(run_python, group):
    lib = str(Path(HARPD[-1]).parents[1] / "lib")
    nobody = pwd.getpwnam("nobody")
    expected = [nobody.pw_gid]
    if group == "daemon":
        expected = [grp.getgrnam("daemon").gr_gid]
    elif group:
        expected = [grp.getgrnam(name).gr_gid for name in group[:2]] + [0]
    found = run_python(BECOME.format(lib=lib, group=group))
    assert found == f"{nobody.pw_uid} {expected[0]} {sorted(set(expected))}\n"


@needs_root
def test_acting_as_another_user_ends_as_it_was():
    before = os.getresuid(), os.getresgid(), os.getgroups()
    with accounts.acting_as(accounts.find("nobody", None)):
        assert os.geteuid() == pwd.getpwnam("nobody").pw_uid
        assert os.getegid() == pwd.getpwnam("nobody").pw_gid
        with pytest.raises(PermissionError):
            open("/etc/shadow")
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before


# --- procedures that want another user ----------------------------------------------

PYTHON = "/usr/bin/python3"


def is_usable() -> bool:
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([PYTHON, "-c", check], user="nobody").returncode == 0
    except OSError:
        return False


@needs_root
def test_procedure_that_harpd_cannot_run_is_named_by_the_check_and_in_the_log(public):
    if not is_usable():
        pytest.skip(f"nobody can't run Python 3.11 as {PYTHON}")
    nobody = pwd.getpwnam("nobody")
    daemon = make_dropping_harpd(public, front={}, procedures={})
    for file in public.iterdir():
        os.chown(file, nobody.pw_uid, nobody.pw_gid)
    os.chown(public, nobody.pw_uid, nobody.pw_gid)
    text = daemon.config_file.read_text().replace('user = "root"\n', "")
    daemon.config_file.write_text(text)
    daemon.argv[0] = PYTHON

    def run_as_nobody(*options):
        return subprocess.Popen(
            ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
            + [*daemon.argv, *options],
            stderr=subprocess.PIPE,
            text=True,
        )

    with run_as_nobody("-t") as process:
        errors = process.communicate(timeout=50)[1]
    assert process.returncode == 78
    assert "who: harpd isn't root, and can't run it as user root" in errors
    assert errors.count("\n") == 1
    with run_as_nobody() as process:
        for line in process.stderr:
            if "serving" in line:
                break
            errors += line
        process.terminate()
        process.communicate(timeout=50)
    assert 'no call of this procedure will run {"procedure": "who"' in errors


@needs_root
def test_procedure_of_a_user_that_is_not_there_is_named(make_harpd, tmp_path):
    file = tmp_path / "procedures.py"
    file.write_text(
        "from harp import procedure\n@procedure(uid='no such')\ndef f(): pass\n"
    )
    daemon = make_harpd(file)
    assert "no user is called 'no such'" in daemon.log()
    done = subprocess.run(
        [*daemon.argv, "-t"], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 78
    assert f"{file}: f: no user is called 'no such'" in done.stderr


# --- hands --------------------------------------------------------------------------

OWNER = os.getuid()


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (0o600, None),
        (0o644, None),
        (0o755, None),
        (0o646, "everybody can write it (mode 0646, owner "),
        (0o666, "everybody can write it (mode 0666, owner "),
    ],
)
def test_code_that_everybody_can_write_is_named_with_its_mode(tmp_path, mode, text):
    file = tmp_path / "file"
    file.touch()
    file.chmod(mode)
    found = hands.who_can_write(str(file), OWNER)
    assert len(found) == bool(text)
    if text:
        assert found[0].startswith(f"{file}: {text}")


def test_directories_on_the_way_count_but_for_sticky_ones(tmp_path):
    outer = tmp_path / "outer"
    file = outer / "inner" / "file"
    file.parent.mkdir(parents=True)
    file.touch()
    assert hands.who_can_write(str(file), OWNER) == []
    outer.chmod(0o777)
    (found,) = hands.who_can_write(str(file), OWNER)
    assert found.startswith(f"{outer}: everybody can write it (mode 0777")
    outer.chmod(0o1777)
    assert hands.who_can_write(str(file), OWNER) == []
    # Everybody could add a module there, though.
    assert hands.code_that_others_can_write(str(outer), OWNER)


def test_what_a_symbolic_link_passes_on_its_way_counts(tmp_path):
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    (tmp_path / "file").touch()
    (open_to_all / "second").symlink_to("../file")
    (tmp_path / "first").symlink_to(open_to_all / "second")
    path = str(tmp_path / "first")
    assert hands.who_can_write(path, OWNER) == []
    open_to_all.chmod(0o777)
    (found,) = hands.who_can_write(path, OWNER)
    assert found.startswith(f"{open_to_all}: ")
    (tmp_path / "circle").symlink_to("circle")
    assert hands.who_can_write(str(tmp_path / "circle"), OWNER) == []


def test_each_module_of_a_directory_counts(tmp_path):
    (tmp_path / "one.py").touch()
    (tmp_path / "two.py").touch(mode=0o600)
    (tmp_path / "two.py").chmod(0o666)
    (tmp_path / "notes").touch()
    (tmp_path / "notes").chmod(0o666)
    (found,) = hands.code_that_others_can_write(str(tmp_path), OWNER)
    assert found.startswith(f"{tmp_path}/two.py: ")


def test_directory_that_cannot_be_listed_is_for_whoever_reads_it_to_name(public):
    directory = public / "modules"
    directory.mkdir()
    directory.chmod(0o311)
    other = accounts.find("nobody", None) if OWNER == 0 else None
    with accounts.acting_as(other):
        with pytest.raises(PermissionError):
            os.listdir(directory)
        assert hands.code_that_others_can_write(str(directory), OWNER) == []
    directory.chmod(0o755)


@needs_root
def test_owner_and_group_of_a_file_count(tmp_path):
    file = tmp_path / "file"
    file.touch()
    os.chown(file, 1, 1)
    (found,) = hands.who_can_write(str(file), 0)
    assert found.startswith(f"{file}: its owner, daemon, can write it (mode 0644")
    assert hands.who_can_write(str(file), 1) == []
    # A group of which the owner is the only member is the owner.
    file.chmod(0o664)
    assert hands.who_can_write(str(file), 1) == []
    os.chown(file, 0, 1)
    (found,) = hands.who_can_write(str(file), 0)
    assert found.startswith(f"{file}: group daemon can write it (mode 0664")


@needs_root
@pytest.mark.parametrize(
    ("mode", "gid", "groups", "is_fault"),
    [
        (0o600, 1, set(), False),
        (0o640, 1, {1}, False),
        (0o640, 1, set(), True),
        (0o644, 1, {1}, True),
        (0o604, 0, {0}, True),
        (0o640, 54321, set(), True),
    ],
)
def test_secret_is_read_by_the_owner_and_the_groups_of_the_front_only(
    tmp_path, mode, gid, groups, is_fault
):
    file = tmp_path / "file"
    file.touch()
    os.chown(file, 0, gid)
    file.chmod(mode)
    found = hands.who_can_read(str(file), 0, groups)
    assert bool(found) == is_fault
    if is_fault:
        assert str(file) in found[0] and f"mode {mode:04o}" in found[0]


def loosen(daemon, what) -> tuple[Path, str]:
    """Put one of a daemon's files into everybody's hands; return it and its mode."""
    directory = daemon.directory
    path, mode = {
        "procedures": (directory / "own" / "procedures.py", 0o666),
        "its directory": (directory / "own", 0o777),
        "python_path": (directory / "modules", 0o777),
        "key": (directory / "key.pem", 0o644),
        "passwords": (directory / "passwords", 0o644),
        "configuration": (daemon.config_file, 0o604),
    }[what]
    path.chmod(mode)
    return path, f"mode {mode:04o}"


@pytest.mark.parametrize(
    "what",
    [
        *("procedures", "its directory", "python_path"),
        *("key", "passwords", "configuration"),
    ],
)
def test_start_reload_and_check_refuse_files_in_the_wrong_hands(tmp_path, what):
    for name in ("own", "modules"):
        (tmp_path / name).mkdir()
    (tmp_path / "passwords").touch(mode=0o600)
    procedures = tmp_path / "own" / "procedures.py"
    procedures.write_text(WHO.format(name="first"))
    daemon = Harpd(
        tmp_path,
        testing.make_certificate(tmp_path),
        procedures,
        {
            "password_file": str(tmp_path / "passwords"),
            "procedures": {"python_path": [str(tmp_path / "modules")]},
        },
    )
    daemon.start()
    try:
        path, mode = loosen(daemon, what)
        daemon.reload()
        (fault,) = [line for line in daemon.log().splitlines() if "all stays" in line]
        assert str(path) in fault and mode in fault
        assert daemon.end("name") == {"result": "first"}
    finally:
        daemon.stop()
    for options in ([], ["-t"]):
        done = subprocess.run(
            [*daemon.argv, *options], capture_output=True, text=True, timeout=50
        )
        assert done.returncode in (1, 78)
        assert f"{path}: " in done.stderr and mode in done.stderr
