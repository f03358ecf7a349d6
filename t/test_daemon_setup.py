"""``harpd setup``: what a server needs, made once."""

import hashlib
import json
import os
import re
import ssl
import subprocess

import pytest
from daemon_setup import HARPD, needs_root
from harp import HarpServer, RemoteError, config, testing
from harp.daemon import template

NAMES = ["cert.pem", "harpd.toml", "key.pem", "passwords", "procedures.py"]


def setup(directory, *arguments, env=None) -> subprocess.CompletedProcess:
    command = [*HARPD, "setup", "--directory", directory, "--hostname", "web01.example"]
    if "--user" not in arguments:
        command.append("--no-user")
    return subprocess.run(
        [*map(str, command), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
        env=os.environ | (env or {}),
    )


def contents(directory) -> dict[str, bytes]:
    files = [path for path in directory.iterdir() if path.is_file()]
    return {path.name: path.read_bytes() for path in files}


def openssl(*arguments) -> str:
    command = ["openssl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_setup_makes_what_is_missing_and_the_check_finds_no_fault(tmp_path):
    directory = tmp_path / "etc" / "harpd"
    done = setup(directory)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert sorted(contents(directory)) == NAMES
    for name in NAMES:
        assert f"{directory / name}: made" in done.stderr
    command = [*HARPD, "-t", "-c", directory / "harpd.toml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr


def test_secrets_are_for_nobody_else(tmp_path):
    setup(tmp_path)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in NAMES}
    for name in ("harpd.toml", "key.pem", "passwords"):
        assert modes[name] == 0o600
    assert modes["cert.pem"] == modes["procedures.py"] == 0o644


@needs_root
def test_secrets_can_be_read_by_the_group_of_the_front(tmp_path):
    import pwd

    nobody = pwd.getpwnam("nobody")
    done = setup(tmp_path, "--user", "nobody")
    assert "user nobody: exists" in done.stderr
    for name in ("harpd.toml", "key.pem", "passwords"):
        status = (tmp_path / name).stat()
        assert (status.st_uid, status.st_gid) == (0, nobody.pw_gid)
        assert status.st_mode & 0o777 == 0o640
    loaded = config.load(str(tmp_path / "harpd.toml"), config.DaemonConfig)
    assert loaded.front_user == "nobody"
    # It could read the key otherwise.
    assert loaded.procedures_user == "nobody"


def test_setup_can_be_repeated_and_changes_nothing(tmp_path):
    setup(tmp_path, "--host-line", "-")
    before = contents(tmp_path)
    done = setup(tmp_path)
    assert done.returncode == 0
    assert contents(tmp_path) == before
    assert "stay as they are" in done.stderr and "a secret, it stays" in done.stderr


def test_only_what_is_missing_is_made(tmp_path):
    setup(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "cert.pem").unlink()
    (tmp_path / "harpd.toml").unlink()
    assert setup(tmp_path).returncode == 0
    after = contents(tmp_path)
    assert after.pop("cert.pem") != before.pop("cert.pem")
    assert after == before
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")


def test_where_there_is_no_systems_log_a_file_is_configured(tmp_path):
    setup(tmp_path, "--logs", tmp_path / "logs")
    loaded = config.load(str(tmp_path / "harpd.toml"), config.DaemonConfig)
    if os.path.exists("/dev/log"):
        assert loaded.logging is None and not (tmp_path / "logs").exists()
    else:
        assert loaded.logging == f"{tmp_path}/logs/harpd.log"
        assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o750


def test_certificate_without_its_key_is_left_to_the_operator(tmp_path):
    setup(tmp_path)
    (tmp_path / "key.pem").unlink()
    before = contents(tmp_path)
    done = setup(tmp_path)
    assert done.returncode == 1 and "not its key" in done.stderr
    assert contents(tmp_path) == before


def test_key_is_p256_and_the_certificate_for_ten_years_and_the_host(tmp_path):
    setup(tmp_path)
    key = openssl("pkey", "-in", tmp_path / "key.pem", "-noout", "-text")
    assert "prime256v1" in key
    text = openssl("x509", "-in", tmp_path / "cert.pem", "-noout", "-text")
    assert "DNS:web01.example" in text
    years = re.findall(r"Not (?:Before|After) ?: .* (\d{4}) GMT", text)
    assert int(years[1]) - int(years[0]) in (9, 10)


def test_configuration_holds_every_key_with_its_default(tmp_path):
    setup(tmp_path)
    text = (tmp_path / "harpd.toml").read_text()
    loaded = config.load(str(tmp_path / "harpd.toml"), config.DaemonConfig)
    # What is commented out and has a value is the default.
    (tmp_path / "all.toml").write_text(re.sub(r"(?m)^# (\w+ = .+)$", r"\1", text))
    assert config.load(str(tmp_path / "all.toml"), config.DaemonConfig) == loaded
    for name, (_, row) in config.keys(config.DaemonConfig).items():
        last = name.rpartition(".")[2]
        assert re.search(rf"(?m)^(# )?({last} =|\[{last}\])", text), name
        assert row.meaning.split()[0] in text


def test_template_fits_the_width_and_sets_what_it_is_told():
    text = template.configuration({"limits.calls": 5, "listen": ["127.0.0.1:1"]})
    assert max(map(len, text.splitlines())) <= 88
    assert '\nlisten = ["127.0.0.1:1"]\n' in text and "\ncalls = 5\n" in text


# --- the dispatcher's line ----------------------------------------------------------


def test_host_line_is_all_that_a_dispatcher_needs(tmp_path):
    done = setup(
        *(tmp_path, "--host-line", "-", "--port", "4999", "--address", "127.0.0.1")
    )
    assert done.returncode == 0, done.stderr
    host = json.loads(done.stdout)
    encoded = ssl.PEM_cert_to_DER_cert((tmp_path / "cert.pem").read_text())
    assert host["cert_sha256"] == hashlib.sha256(encoded).hexdigest()
    assert (host["hostname"], host["address"]) == ("web01.example", "127.0.0.1")
    assert host["port"] == 4999
    file = tmp_path / "harpd.toml"
    assert '"*:4999"' in file.read_text()
    file.write_text(file.read_text().replace('"*:4999"', '"127.0.0.1:0"'))
    (tmp_path / "procedures.py").write_text(
        "from harp import procedure\n@procedure(uid=%d)\ndef hello(): return 'hello'\n"
        % os.getuid()
    )
    daemon = testing.Program([*HARPD, "-c", file], tmp_path / "output")
    daemon.start()
    try:
        port = int(daemon.addresses[0].rpartition(":")[2])
        credentials = host["credentials"]
        server = HarpServer(
            *("127.0.0.1", credentials["user"], credentials["password"]),
            port=port,
            cert_sha256=host["cert_sha256"],
        )
        assert server.hello() == "hello"
        wrong = HarpServer(
            *("127.0.0.1", credentials["user"], "another"),
            port=port,
            cert_sha256=host["cert_sha256"],
        )
        with pytest.raises(RemoteError, match="auth_error"):
            wrong.hello()
    finally:
        daemon.stop()


def test_secret_is_made_only_where_it_can_be_handed_over(tmp_path):
    done = setup(tmp_path)
    assert "no secret made" in done.stderr
    assert "harpcaller:" not in (tmp_path / "passwords").read_text()
    done = setup(tmp_path, "--host-line", "-")
    assert json.loads(done.stdout)["credentials"]["user"] == "harpcaller"


def test_secret_that_is_stored_cannot_be_printed_again_but_another_one(tmp_path):
    first = json.loads(setup(tmp_path, "--host-line", "-").stdout)
    done = setup(tmp_path, "--host-line", "-")
    assert done.returncode == 1 and done.stdout == ""
    assert "--new-secret" in done.stderr
    second = json.loads(setup(tmp_path, "--host-line", "-", "--new-secret").stdout)
    stored = (tmp_path / "passwords").read_text()
    digests = [
        hashlib.sha256(host["credentials"]["password"].encode()).hexdigest()
        for host in (first, second)
    ]
    assert digests[0] != digests[1]
    assert [f"harpcaller:sha256:{digest}" for digest in digests] == [
        line for line in stored.splitlines() if line.startswith("harpcaller:")
    ]


def test_host_line_is_appended_to_a_file_that_nobody_else_reads(tmp_path):
    file = tmp_path / "hosts.jsonl"
    for name in ("one", "two"):
        done = setup(tmp_path / name, "--host-line", file)
        assert done.returncode == 0 and done.stdout == ""
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 2
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"\x30\x82\x01", b"garbage\n"])
def test_certificate_that_is_none_is_named_before_a_secret_is_made(tmp_path, content):
    setup(tmp_path)
    (tmp_path / "cert.pem").write_bytes(content)
    before = contents(tmp_path)
    done = setup(tmp_path, "--host-line", "-")
    assert done.returncode == 1 and done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert f"{tmp_path}/cert.pem: holds no certificate in PEM form" in last
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "#a"])
def test_caller_whose_name_no_password_file_can_hold_is_refused(tmp_path, name):
    done = setup(tmp_path / "etc", "--host-line", "-", "--caller", name)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"harpd setup: can't be a user's name: {name!r}\n"
    assert not (tmp_path / "etc").exists()


def test_files_are_utf_8_whatever_the_locale_says(tmp_path):
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = setup(tmp_path, env=ascii_only)
    assert done.returncode == 0, done.stderr
    assert "scrypt:…" in (tmp_path / "harpd.toml").read_text(encoding="utf-8")


# --- commands that are missing or fail ----------------------------------------------


def test_missing_openssl_is_named(tmp_path):
    done = setup(tmp_path / "etc", env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "no 'openssl' command found" in done.stderr
    assert "Traceback" not in done.stderr


@needs_root
@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo no room >&2; exit 1", "useradd: no room"),
        ("exit 0", "useradd made no user harp-test-user"),
    ],
)
def test_user_is_made_where_there_is_none(tmp_path, script, text):
    log = tmp_path / "useradd.log"
    command = tmp_path / "bin" / "useradd"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" > {log}\n{script}\n')
    command.chmod(0o755)
    done = setup(
        *(tmp_path / "etc", "--user", "harp-test-user"),
        env={"PATH": f"{command.parent}:{os.environ['PATH']}"},
    )
    assert done.returncode == 1 and text in done.stderr
    assert log.read_text().startswith("--system ")
    assert log.read_text().endswith(" harp-test-user\n")
    assert not (tmp_path / "etc").exists()
