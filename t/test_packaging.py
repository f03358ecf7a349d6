"""What is released: the source, the package that pip installs, the single files. Each
is made as for a release, and used."""

import ast
import contextlib
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import harp
import pytest
from conftest import PROCEDURES, TOP
from harp import testing

COMMANDS = ("harpcaller", "harpcallerd", "harpd")
SCRIPTS = sorted(
    path
    for directory in ("bin", "sbin")
    for path in (TOP / directory).iterdir()
    if path.is_file()
) + [TOP / "setup.py"]
# What setuptools adds to a source release.
ADDED = {
    "PKG-INFO",
    "setup.cfg",
    *(
        f"lib/harpcaller.egg-info/{name}"
        for name in ("PKG-INFO", "SOURCES.txt", "dependency_links.txt", "top_level.txt")
    ),
}
# What builds, tests and editors leave in a checkout.
RUBBISH = [
    "build/lib/harp/old.py",
    "dist/harpd.pyz",
    "doc/_build/index.html",
    "lib/harp/__pycache__/wire.cpython-311.pyc",
    "lib/harp/.wire.py.swp",
    "t/.pytest_cache/README.md",
    ".venv/bin/python",
    "notes.txt",
]


@pytest.fixture(autouse=True)
def _library_of_their_own(monkeypatch):
    """Nothing here may find the library in this checkout by the environment."""
    monkeypatch.delenv("PYTHONPATH", raising=False)


def run(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, **options
    )


def succeed(*command, **options) -> str:
    """Run a command that must succeed, and return what it prints."""
    done = run(*command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def documentation_settings(source: Path, monkeypatch) -> dict:
    monkeypatch.chdir(source / "doc")
    monkeypatch.setattr(sys, "path", [*sys.path])  # which they add to
    return runpy.run_path("conf.py")


def test_version_is_the_same_everywhere(monkeypatch):
    settings = documentation_settings(TOP, monkeypatch)
    assert settings["release"] == settings["version"] == harp.__version__
    changes = (TOP / "CHANGES.md").read_text()
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == harp.__version__


# --- the source release, and what pip makes of it -----------------------------------


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> tuple[Path, set[str]]:
    """A copy of this checkout, and the names of its files: those that git has, or would
    add."""
    if not (TOP / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a git checkout, and git")
    listed = succeed(
        *("git", "-C", TOP, "-c", "safe.directory=*", "ls-files", "-z"),
        *("--cached", "--others", "--exclude-standard"),
    )
    directory = tmp_path_factory.mktemp("checkout")
    tracked = set()
    for name in listed.rstrip("\0").split("\0"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        # One may be deleted and still be known to git, and somebody may be at work.
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(TOP / name, directory / name)
            tracked.add(name)
    return directory, tracked


@pytest.fixture(scope="session")
def setuptools(tmp_path_factory) -> dict[str, str]:
    """An environment in which this Python has setuptools, and sphinx as here."""
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH"
    }
    directory = tmp_path_factory.mktemp("setuptools")
    made = run(
        *pip(tmp_path_factory),
        *("install", "--quiet", "--disable-pip-version-check", "--target", directory),
        "setuptools>=70.1",
        env=environment,
    )
    if made.returncode:
        pytest.skip(f"can't install setuptools: {made.stderr.strip()[-200:]}")
    return environment | {"PYTHONPATH": str(directory)}


def pip(tmp_path_factory) -> list:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    directory = tmp_path_factory.mktemp("pip")
    succeed(sys.executable, "-m", "venv", directory)
    return [directory / "bin" / "python", "-m", "pip"]


def build(kind: str, source: Path, output: Path, environment: dict[str, str]) -> Path:
    """Have setuptools build an ``sdist`` or a ``wheel``, as pip does."""
    code = (
        "import sys; from setuptools import build_meta; "
        f"build_meta.__legacy__.build_{kind}(sys.argv[1])"
    )
    succeed(sys.executable, "-c", code, output, cwd=source, env=environment)
    [path] = output.iterdir()
    return path


@pytest.fixture(scope="session")
def sdist(tmp_path_factory, checkout, setuptools) -> Path:
    """The source release, made of a checkout in which there is rubbish too."""
    directory, _ = checkout
    for name in RUBBISH:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()
    return build("sdist", directory, tmp_path_factory.mktemp("sdist"), setuptools)


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory, sdist) -> Path:
    """The source, as somebody has it who got the release."""
    directory = tmp_path_factory.mktemp("unpacked")
    succeed("tar", "-C", directory, "-xzf", sdist)
    [source] = directory.iterdir()
    return source


@pytest.fixture(scope="session")
def installed(tmp_path_factory, unpacked, setuptools) -> Path:
    """A fresh virtual environment with what is made of the source release."""
    wheel = build("wheel", unpacked, tmp_path_factory.mktemp("wheel"), setuptools)
    directory = tmp_path_factory.mktemp("installed")
    succeed(sys.executable, "-m", "venv", "--without-pip", directory)
    succeed(
        *pip(tmp_path_factory),
        *("--disable-pip-version-check", "--python", directory / "bin" / "python"),
        *("install", "--quiet", "--no-index", "--no-compile", wheel),
        env=os.environ | {"PYTHONPATH": ""},
    )
    return directory


def test_source_release_holds_the_tracked_files_and_nothing_else(checkout, unpacked):
    _, tracked = checkout
    found = {
        str(path.relative_to(unpacked))
        for path in unpacked.rglob("*")
        if path.is_file()
    }
    assert (found - tracked - ADDED, tracked - found) == (set(), set())


def test_package_needs_python_and_nothing_else(installed):
    [metadata] = installed.rglob("*.dist-info/METADATA")
    fields = metadata.read_text().partition("\n\n")[0].splitlines()
    assert f"Version: {harp.__version__}" in fields
    assert "Requires-Python: >=3.11" in fields
    assert not [field for field in fields if field.startswith("Requires-Dist")]


def test_build_of_the_package_asks_for_sphinx(unpacked, setuptools):
    code = (
        "from setuptools import build_meta; "
        "print(build_meta.__legacy__.get_requires_for_build_wheel())"
    )
    asked = succeed(sys.executable, "-c", code, cwd=unpacked, env=setuptools)
    assert asked.splitlines()[-1] == "['sphinx']"


def test_scripts_that_a_wheel_has_left_are_made_anew(unpacked, installed, setuptools):
    [script] = unpacked.glob("build/scripts-*/harpd")
    script.write_text("#!python\n")  # newer than the script itself
    setup = [sys.executable, "setup.py", "-q", "build_scripts"]
    succeed(*setup, cwd=unpacked, env=setuptools)
    assert script.read_text() != "#!python\n"


def test_package_holds_the_library_and_the_commands_alone(installed):
    [record] = installed.rglob("*.dist-info/RECORD")
    lines = record.read_text().splitlines()
    names = [line.rpartition(",")[0].rpartition(",")[0] for line in lines]
    kinds = {re.sub(r"^(\.\./)*", "", name).partition("/")[0] for name in names}
    assert {kind.partition("-")[0] for kind in kinds} == {
        *("harp", "harpcaller", "bin", "share")
    }
    assert "harp/py.typed" in names


@pytest.mark.parametrize("command", COMMANDS)
def test_installed_command_says_the_version_of_the_package(installed, command):
    printed = succeed(installed / "bin" / command, "--version", cwd="/")
    assert printed == f"{command} {harp.__version__}\n"


def test_installed_package_brings_its_man_pages(installed, unpacked, monkeypatch):
    pages = documentation_settings(unpacked, monkeypatch)["man_pages"]
    expected = {f"man{section}/{name}.{section}" for _, name, _, _, section in pages}
    assert expected >= {
        *("man1/harpcaller.1", "man3/harp.3", "man5/harpd.toml.5", "man7/harpcaller.7"),
        *("man5/harpcaller.toml.5", "man8/harpd.8", "man8/harpcallerd.8"),
    }
    man = installed / "share" / "man"
    assert {str(path.relative_to(man)) for path in man.glob("*/*")} == expected
    for name in expected:
        assert "HarpCaller" in (man / name).read_text()


def test_demo_runs_from_an_installed_package(installed):
    printed = succeed(installed / "bin" / "harpcaller", "demo", cwd="/")
    assert "All as it should be." in printed


# --- single files -------------------------------------------------------------------


@pytest.fixture(scope="session")
def python(tmp_path_factory) -> Path:
    """A directory in which ``python3`` is the Python of these tests, without what is
    installed in a virtual environment."""
    directory = tmp_path_factory.mktemp("python")
    (directory / "python3").symlink_to(os.path.realpath(sys.executable))
    return directory


@pytest.fixture
def only_python(monkeypatch, python):
    monkeypatch.setenv("PATH", str(python), prepend=os.pathsep)


def make_single_files(directory: Path, *options, **environment) -> Path:
    succeed(
        *(sys.executable, TOP / "sbin" / "harp-pyz", "--output", directory, *options),
        env=os.environ | environment,
    )
    return directory


@pytest.fixture(scope="session")
def single_files(tmp_path_factory) -> Path:
    """A directory with the single files, for tests that don't change them."""
    return make_single_files(tmp_path_factory.mktemp("single"))


@pytest.fixture
def copies(tmp_path, single_files) -> Path:
    """A directory with copies of them, named as they are on servers."""
    directory = tmp_path / "copies"
    directory.mkdir()
    for command in COMMANDS:
        shutil.copy(single_files / f"{command}.pyz", directory / command)
    return directory


@pytest.fixture
def servers(tmp_path, copies, only_python):
    """Both daemons, from those copies; not started."""
    servers = testing.Servers(PROCEDURES, tmp_path / "servers")
    servers.daemon.argv[:2] = [str(copies / "harpd")]
    servers.dispatcher.argv[:2] = [str(copies / "harpcallerd")]
    yield servers
    servers.stop()


def test_single_files_are_the_same_each_time(single_files, tmp_path):
    again = make_single_files(tmp_path, PYTHONHASHSEED="1", TZ="Asia/Tokyo")
    for command in COMMANDS:
        name = f"{command}.pyz"
        assert (again / name).read_bytes() == (single_files / name).read_bytes(), name


def test_single_files_run_with_the_python_that_is_asked_for(tmp_path):
    make_single_files(tmp_path, "--python", "python3.11")
    for command in COMMANDS:
        with open(tmp_path / f"{command}.pyz", "rb") as file:
            assert file.readline() == b"#!/usr/bin/env python3.11\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_single_file_says_the_version_of_the_library(
    single_files, only_python, command
):
    path = single_files / f"{command}.pyz"
    with path.open("rb") as file:
        assert file.readline() == b"#!/usr/bin/env python3\n"
    printed = succeed(path, "--version", cwd="/")
    assert printed == f"{command} {harp.__version__}\n"


def test_demo_runs_from_a_single_file_alone(tmp_path, single_files, only_python):
    shutil.copy(single_files / "harpcaller.pyz", tmp_path)
    printed = succeed(tmp_path / "harpcaller.pyz", "demo", cwd="/")
    assert "All as it should be." in printed


def test_single_files_serve_calls(servers, copies):
    with servers:
        dispatcher = "{}:{}".format(*servers.dispatcher_address)
        called = succeed(
            *(copies / "harpcaller", "--dispatcher", dispatcher),
            *("call", "localhost", "add", "2", "3"),
        )
        assert called == "5\n"
        traced = servers.caller().localhost.fail().result()
        assert isinstance(traced, harp.RemoteException)
        status = [*servers.dispatcher.argv, "status"]
        assert f'"version":"{harp.__version__}"' in succeed(*status)


def test_daemons_go_on_while_their_files_are_copied_over(servers, copies):
    servers.start()
    for command in COMMANDS:
        (copies / command).write_bytes(b"")
    caller = servers.caller()
    server = caller.localhost
    assert server.add(1, 2).get() == 3
    assert list(server.count_with_result(3).follow(since=0)) == [0, 1, 2]
    assert server.fail().result().type == "ValueError"
    assert server.no_such_procedure().result().ran == "no"
    job = server.sleep(600)
    assert job.cancel() is True
    assert caller.procedures("localhost") and caller.jobs() and job.explain()
    assert caller.queues() == []
    servers.daemon.reload()
    assert "reload failed, all stays as it was" in servers.daemon.log()
    assert server.add(3, 4).get() == 7


@pytest.fixture(scope="session")
def configured(tmp_path_factory) -> testing.Servers:
    """Both daemons, which have run once, and so have configurations."""
    servers = testing.Servers(PROCEDURES, tmp_path_factory.mktemp("configured"))
    with servers:
        return servers


@pytest.mark.parametrize("command", ["harpd", "harpcallerd"])
def test_single_file_is_an_init_script(
    configured, copies, only_python, tmp_path, command
):
    log, pidfile = tmp_path / "log", tmp_path / "pid"
    program = configured.daemon if command == "harpd" else configured.dispatcher
    options = [*program.argv[2:], "-p", pidfile, "-l", log]

    def do(action: str) -> int:
        return run(copies / command, *options, action, cwd="/").returncode

    try:
        statuses = [do(action) for action in ("start", "status", "reload")]
        assert statuses == [0, 0, 0], log.read_text()
    finally:
        assert do("stop") == 0
    assert do("status") == 3


@pytest.mark.parametrize("command", ["harpd", "harpcallerd"])
def test_single_file_that_others_can_write_is_refused(
    configured, copies, only_python, command
):
    program = configured.daemon if command == "harpd" else configured.dispatcher
    (copies / command).chmod(0o757)
    tested = run(copies / command, *program.argv[2:], "-t")
    assert tested.returncode == 78
    fault = f"program: {copies / command}: everybody can write it"
    assert fault in tested.stderr


def replace_with_version(path: Path, version: str) -> None:
    """Put a single file of another version in the place of one."""
    new = path.with_name("new")
    module = "harp/__init__.py"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w") as changed:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename == module:
                text = f'__version__ = "{harp.__version__}"'.encode()
                assert text in content
                content = content.replace(text, f'__version__ = "{version}"'.encode())
            if entry.filename != f"{module}c":
                changed.writestr(entry, content)
    new.chmod(0o755)
    new.replace(path)


def test_daemon_goes_on_as_the_version_it_is_until_it_is_restarted(servers, copies):
    servers.start()
    server = servers.caller().localhost
    replace_with_version(copies / "harpd", "99.1")
    assert server.add(1, 2).get() == 3
    servers.daemon.reload()
    log = servers.daemon.log()
    assert f"harpd 99.1 is installed now, but {harp.__version__} runs" in log
    assert server.add(3, 4).get() == 7


# --- the scripts' own check ---------------------------------------------------------

OLD = """
import sys
sys.version_info = ({version}, 9, "final", 0)
sys.argv = sys.argv[1:]
with open(sys.argv[0]) as file:
    text = file.read()
exec(compile(text, sys.argv[0], "exec"), {{"__name__": "__main__"}})
"""


def run_as(version: str, script: Path, path: Path, *arguments):
    """Run a script by a Python that says that it is an old one.

    :param path: where programs are looked for
    """
    code = OLD.format(version=version)
    command = [sys.executable, "-c", code, script, *arguments]
    return run(*command, env={"PATH": str(path)})


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


@pytest.mark.parametrize("script", SCRIPTS, ids=names(SCRIPTS))
def test_script_names_what_to_install_if_python_is_too_old(script, tmp_path):
    done = run_as("3, 6", script, tmp_path, "--help")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{script.name}: ")
    assert done.stderr.count("\n") == 1
    for text in ("needs Python 3.11 or later", "this is 3.6", "apt-get", "dnf"):
        assert text in done.stderr


@pytest.mark.parametrize("script", SCRIPTS[:-1], ids=names(SCRIPTS[:-1]))
def test_script_uses_a_later_python_that_is_there(script, tmp_path):
    later = tmp_path / "python3.12"
    later.write_text('#!/bin/sh\necho "$@"\n')
    later.chmod(0o755)
    done = run_as("3, 9", script, tmp_path, "--option", "word")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{script} --option word\n"


@pytest.mark.parametrize("script", SCRIPTS, ids=names(SCRIPTS))
def test_script_can_be_read_by_old_pythons(script):
    # Which is as much as a later Python can tell of them.
    ast.parse(script.read_text(), feature_version=(3, 6))


def old_pythons() -> dict[str, str]:
    """Return paths of those that are here, by name."""
    found = {}
    for name in ("python2.7", "python3.6", "python3.8", "python3.9", "python3.10"):
        command = [name, "-c", "import sys; print(sys.executable)"]
        if shutil.which(name):
            asked = subprocess.run(command, capture_output=True, text=True)
            if asked.returncode == 0:
                found[name] = asked.stdout.strip()
    return found


def test_scripts_tell_the_old_pythons_that_are_here(tmp_path):
    pythons = old_pythons()
    if not pythons:
        pytest.skip("there is no older Python")
    for script in SCRIPTS:
        for name, path in pythons.items():
            if name == "python2.7" and script.name in ("harp-pyz", "setup.py"):
                continue  # they are run where releases are made
            done = run(path, script, "--help", env={"PATH": str(tmp_path)})
            assert done.returncode == 1, (script, name)
            assert "needs Python 3.11 or later" in done.stderr, (script, name)
            assert done.stderr.count("\n") == 1, (script, name)
