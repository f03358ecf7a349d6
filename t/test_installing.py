"""The commands by which the README and the page on installing do it, on a machine made
for that: its own file systems, users, network and processes, gone with the test."""

import re
import shutil
import subprocess
import sys

import pytest
import sessions
from daemon_setup import needs_root

from conftest import TOP

_UNSHARE = ["unshare", "--mount", "--uts", "--net", "--pid", "--fork", "--kill-child"]
_UNSHARE += ["--mount-proc", "--propagation", "private", "bash", "-e"]

_MACHINE = """
mount -t tmpfs none "$1"
for place in etc var usr/local; do
    mkdir -p "$1/$place/upper" "$1/$place/work"
    mount -t overlay none "/$place" -o \
        "lowerdir=/$place,upperdir=$1/$place/upper,workdir=$1/$place/work"
done
mkdir "$1/run"
mount --bind "$1/run" /run
hostname web01
echo 127.0.0.1 web01 web01.example.net localhost >/etc/hosts
PATH=/usr/local/sbin:/usr/local/bin:$PATH
"""


@pytest.fixture
def machine(tmp_path):
    """What makes a shell be on a machine of its own; it takes a script of bash."""
    place = tmp_path / "machine"
    place.mkdir()

    def run(script: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*_UNSHARE, "-s", str(place)],
            input=_MACHINE + script,
            capture_output=True,
            text=True,
            timeout=100,
            cwd=tmp_path,
        )

    tools = ("unshare", "ip", "useradd", "hostname")
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    tried = run("true")
    if tried.returncode != 0:
        pytest.skip(f"no machine of its own can be made: {tried.stderr.strip()}")
    return run


@pytest.fixture
def files(tmp_path):
    """What the pages say has been copied to the machine, and a way to itself."""
    command = [sys.executable, TOP / "sbin" / "harp-pyz", "--output", tmp_path]
    subprocess.run([*command, "--python", sys.executable], check=True, timeout=100)
    shutil.copy(TOP / "examples" / "procedures.py", tmp_path)
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    ssh.chmod(0o755)
    return f'ip link set lo up\nPATH="{tmp_path}":$PATH\n'


@pytest.mark.slow
@needs_root
def test_commands_of_the_readme_install_a_server_and_a_dispatcher(machine, files):
    shown = [block.text for block in sessions.blocks("README.md") if block.kind == "sh"]
    installing = [text for text in shown if "setup" in text]
    assert len(installing) == 2
    done = machine(files + "".join(installing))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "good, 10 procedures" in done.stderr
    *_, seconds = done.stdout.splitlines()
    assert float(seconds) > 0


@pytest.mark.slow
@needs_root
def test_commands_of_the_page_install_a_server_and_a_dispatcher(machine, files):
    shown = [
        command
        for block in sessions.blocks("doc/installing.rst")
        for command in re.findall(
            r"^root@(?:web01|dispatcher):~# (.*(?:(?<=\\)\n.*)*)", block.text, re.M
        )
    ]
    assert len(shown) > 15
    done = machine(files + "\n".join(shown))
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"host":"web01","ok":true' in done.stdout
    assert "1 of 1 succeeded" in done.stderr
