"""``harpd passwd``: users and their passwords in a file."""

import os
import pty
import subprocess
import sys

import pytest
from daemon_setup import HARPD, error_of, make_harpd, request  # noqa: F401
from harp.auth import passwords


def passwd(*arguments, stdin="") -> subprocess.CompletedProcess:
    return subprocess.run(
        [*HARPD, "passwd", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "passwords"
    file.touch(mode=0o600)
    return file


def matches(file, user, password) -> list[bool]:
    """Tell for each entry of a user whether that is the password."""
    found = []
    for line in file.read_text().splitlines():
        name, _, text = line.partition(":")
        if name == user:
            found.append(passwords.parse(text, allow_plain=False).matches(password))
    return found


def test_password_from_standard_input_is_stored_as_scrypt(file):
    done = passwd(file, "admin", stdin="correct horse\nnot this\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert file.read_text().startswith("admin:scrypt:")
    assert "horse" not in file.read_text()
    assert matches(file, "admin", "correct horse") == [True]


def test_random_secret_is_printed_and_stored_as_its_digest(file):
    done = passwd(file, "--random", "admin")
    assert done.returncode == 0
    secret = done.stdout.strip()
    assert len(secret) >= 43  # 256 bits, 6 in each character
    assert file.read_text().startswith("admin:sha256:")
    assert secret not in file.read_text()
    assert matches(file, "admin", secret) == [True]
    assert passwd(file, "--random", "admin").stdout.strip() != secret


def test_password_replaces_all_entries_of_the_user_and_nothing_else(file):
    others = "# comment\nother:sha256:x\nbroken\n\nadmin2:sha256:y\n"
    file.write_text("admin:old\n" + others + "admin:older\n")
    assert passwd(file, "admin", stdin="new").returncode == 0
    text = file.read_text()
    assert text.startswith(others) and text.count("admin:") == 1
    assert matches(file, "admin", "new") == [True]


def test_added_secret_is_valid_beside_the_old_until_that_is_dropped(file):
    old = passwd(file, "--random", "admin").stdout.strip()
    new = passwd("--random", "--add", file, "admin").stdout.strip()
    assert matches(file, "admin", old) == [True, False]
    assert matches(file, "admin", new) == [False, True]
    assert passwd("--drop-old", file, "admin").returncode == 0
    assert matches(file, "admin", new) == [True]


def test_deleted_user_has_no_entry_any_more(file):
    file.write_text("admin:1\nother:2\nadmin:3\n")
    assert passwd("--delete", file, "admin").returncode == 0
    assert file.read_text() == "other:2\n"
    done = passwd("--delete", file, "admin")
    assert done.returncode == 1 and "no user is called 'admin'" in done.stderr


def test_file_keeps_mode_and_owner_and_a_link_stays_one(file, tmp_path):
    file.chmod(0o640)
    if os.getuid() == 0:
        os.chown(file, 1, 2)
    link = tmp_path / "link"
    link.symlink_to(file)
    before = file.stat()
    assert passwd(link, "admin", stdin="x").returncode == 0
    after = file.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link", "passwords"]


def test_new_file_is_for_nobody_else(tmp_path):
    file = tmp_path / "new"
    assert passwd(file, "admin", stdin="x").returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("stdin", ["", "\n", "\r\n"])
def test_empty_password_changes_nothing(file, stdin):
    done = passwd(file, "admin", stdin=stdin)
    assert done.returncode == 1 and "empty" in done.stderr
    assert file.read_text() == ""


def test_closed_standard_input_changes_nothing(file):
    done = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", *HARPD, "passwd", file, "admin"],
        capture_output=True,
        text=True,
        timeout=50,
    )
    told = "harpd passwd: standard input is closed, nothing is changed\n"
    assert (done.returncode, done.stderr) == (1, told)


@pytest.mark.parametrize("user", ["", "a:b", "#a", "a\nb"])
def test_name_that_the_file_could_not_hold_is_refused(file, user):
    done = passwd(file, user, stdin="x")
    assert done.returncode == 1 and "can't be a user's name" in done.stderr
    assert file.read_text() == ""


def test_lines_that_are_not_understood_stay_as_they_are(file):
    odd = b"\xff\xfe:x\r\nname:sha256:\xe2\x80\xa8\x0c\x1d\n"
    file.write_bytes(odd)
    assert passwd(file, "admin", stdin="x").returncode == 0
    assert file.read_bytes().startswith(odd + b"admin:scrypt:")


def test_changes_at_the_same_time_are_all_kept(file):
    processes = [
        subprocess.Popen(
            [*HARPD, "passwd", str(file), f"user{number}"],
            stdin=subprocess.PIPE,
        )
        for number in range(6)
    ]
    for process in processes:
        process.stdin.write(b"x\n")
        process.stdin.close()
    assert [process.wait(50) for process in processes] == [0] * 6
    assert len(file.read_text().splitlines()) == 6


def ask_at_terminal(file, *answers) -> int:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(HARPD[0], [*HARPD, "passwd", str(file), "admin"])
    text = b""
    try:
        for number, answer in enumerate(answers, 1):
            while text.count(b": ") < number:
                text += os.read(terminal, 1000)
            os.write(terminal, answer.encode() + b"\n")
        while True:
            try:
                text += os.read(terminal, 1000)
            except OSError:  # it has gone
                break
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    for answer in answers:
        assert answer.encode() not in text
    return os.waitstatus_to_exitcode(status)


def test_terminal_is_asked_twice_and_shows_nothing(file):
    assert ask_at_terminal(file, "first one", "first one") == 0
    assert matches(file, "admin", "first one") == [True]
    assert ask_at_terminal(file, "second one", "2nd one") == 1
    assert matches(file, "admin", "first one") == [True]


def test_secret_that_cannot_be_shown_is_not_made(file):
    code = "import os, sys; os.close(1); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", code, *HARPD, "passwd", "--random", file, "web"]
    before = file.read_text()
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=50)
    assert done.returncode == 1
    assert done.stderr == "harpd passwd: standard output is closed\n"
    assert file.read_text() == before


def test_end_of_file_at_the_terminal_changes_nothing(file):
    before = file.read_text()
    assert ask_at_terminal(file, "\x04") == 1
    assert file.read_text() == before


def test_file_of_the_configuration_is_meant_if_none_is_given(make_harpd, file):
    daemon = make_harpd(password_file=str(file))
    done = passwd("-c", daemon.config_file, "--random", "operator")
    assert done.returncode == 0, done.stderr
    with daemon.connect() as caller:
        caller.send_message(request("echo", [1], "operator", done.stdout.strip()))
        assert caller.messages()[-1] == {"result": 1}
    assert passwd("-c", daemon.config_file, "--delete", "operator").returncode == 0
    with daemon.connect() as caller:
        caller.send_message(request("echo", [1], "operator", done.stdout.strip()))
        assert error_of(caller.messages()[-1])[0] == "auth_error"
    without = make_harpd(start=False)
    done = passwd("-c", without.config_file, "operator", stdin="x")
    assert done.returncode == 1 and "names no password_file" in done.stderr
