"""Imports go down only, the library needs nothing else, and the client's is light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
PACKAGE = TOP / "lib" / "harp"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 600

# What each part may import of the others; a part is a module or a package in lib/harp.
LEAVES = {
    "errors", "proc", "jobid", "log", "address", "size", "duration", "linefile",
    "certificate", "hands", "accounts", "kernel", "provision", "commandline",
}  # fmt: skip
SERVER_SIDE = LEAVES | {
    "wire", "arguments", "protocol", "kinds", "config", "server", "service", "pidfile", "actions",
    "template", "auth", "gate", "server_tls", "listener", "rights", "watched",
}  # fmt: skip
ALLOWED = {
    "errors": set(),
    "size": set(),
    "duration": set(),
    "hands": set(),
    "commandline": set(),
    "accounts": set(),
    "kernel": set(),
    "provision": {"log"},
    "linefile": set(),
    "certificate": set(),
    "proc": {"size"},
    "jobid": set(),
    "log": set(),
    "address": set(),
    "jsonline": {"errors"},
    "arguments": {"jsonline"},
    "wire": {"errors", "jsonline"},
    "protocol": {"errors"},
    "channel": {"errors", "address", "wire"},
    "tls": {"errors", "channel"},
    "secret": set(),
    "outcome": {"errors", "protocol"},
    "settings": {"errors", "address", "protocol", "channel", "tls"},
    "connections": {"errors", "protocol", "wire", "channel", "settings"},
    "exchange": {"errors", "protocol", "wire", "channel", "settings", "connections"},
    "streams": {"errors", "protocol", "channel", "exchange", "outcome"},
    "calls": {"errors", "protocol", "proc", "jobid", "exchange", "outcome", "streams"},
    "groups": {"errors", "protocol", "jobid", "wire", "secret", "exchange", "outcome"}
    | {"calls"},
    "client": {"protocol", "settings", "connections", "exchange", "secret", "calls"}
    | {"errors", "groups"},
    "direct": {"errors", "proc", "address", "wire", "protocol", "channel", "secret"}
    | {"tls"},
    "__init__": {"errors", "proc", "client", "direct", "calls", "streams", "outcome"}
    | {"secret", "groups"},
    "kinds": {"address", "protocol", "size", "duration"},
    "listener": {"address", "kinds"},
    "rights": {"kinds"},
    "config": {"address", "commandline", "kinds", "listener", "log", "protocol"}
    | {"rights"},
    "template": {"config", "kinds", "rights"},
    "server": {"address", "wire", "log"},
    "service": {"log"},
    "gate": {"errors", "server", "wire", "log"},
    "server_tls": {"config", "errors", "wire"},
    "watched": {"log"},
    "auth": {"commandline", "config", "errors", "linefile", "log", "watched"},
    "pidfile": set(),
    "actions": {"pidfile"},
    "daemon": SERVER_SIDE,
    "dispatcher": SERVER_SIDE,
    "testing": {"client", "direct"},
    "cli": LEAVES
    | {"__init__", "wire", "arguments", "protocol", "channel", "client", "direct", "config"}
    | {"auth", "pidfile", "actions", "service", "template", "testing", "daemon", "dispatcher"}
    | {"settings", "secret", "calls"},
}


def name_of(path: Path) -> str:
    """``harp.wire`` for lib/harp/wire.py."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def imported_by(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    package = path.relative_to(PACKAGE.parent).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                if alias.name == "__version__":
                    continue  # which is the package's, and stands above all
                whole = f"{module}.{alias.name}"
                found.add(whole if whole in NAMES else module)
    return found


def part_of(module: str) -> str:
    """``daemon`` for harp.daemon.spawner."""
    return module.split(".")[1] if "." in module else "__init__"


def ours(path: Path) -> set[str]:
    return {name for name in imported_by(path) if name.split(".")[0] == "harp"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_imports_downward_only(path):
    part = part_of(name_of(path))
    assert part in ALLOWED, f"{part}: which layer is it in? Say so in this table"
    imported = {part_of(name) for name in ours(path)} - {part}
    assert imported <= ALLOWED[part], f"{name_of(path)} must not import these"


def test_table_of_layers_has_no_circle():
    left = dict(ALLOWED)
    while lowest := [part for part in left if not ALLOWED[part] & left.keys()]:
        for part in lowest:
            del left[part]
    assert not left


def test_design_names_every_part():
    text = (TOP / "doc" / "design.rst").read_text(encoding="utf-8")
    assert [part for part in ALLOWED if f"``{part}``" not in text] == ["__init__"]


def test_no_modules_import_each_other():
    graph = {name: ours(path) - {name} for name, path in NAMES.items()}
    # A package's own file is run before its modules, but is no part of them.
    for name, imported in graph.items():
        imported -= {package for package in imported if name.startswith(package + ".")}
    while lowest := [name for name in graph if not graph[name] & graph.keys()]:
        for name in lowest:
            del graph[name]
    assert not graph, "these import each other in a circle, or one that does"


def test_daemon_and_dispatcher_know_nothing_of_each_other():
    for part, other in [("daemon", "dispatcher"), ("dispatcher", "daemon")]:
        for path in (PACKAGE / part).rglob("*.py"):
            assert part_of(name_of(path)) == part
            assert {part_of(name) for name in ours(path)}.isdisjoint({other, "cli"})


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_library_needs_the_standard_library_only(path):
    tops = {name.split(".")[0] for name in imported_by(path)}
    assert tops - {"harp"} <= sys.stdlib_module_names


HEAVY = {
    "threading", "subprocess", "logging", "tomllib", "dataclasses", "ssl", "inspect",
    "typing", "socketserver", "ast", "tempfile", "pathlib", "urllib", "http", "email",
    "asyncio", "concurrent", "multiprocessing", "hashlib", "random", "datetime", "uuid",
}  # fmt: skip

LIGHTNESS = f"""
import sys
sys.path.insert(0, {str(PACKAGE.parent)!r})
before = set(sys.modules)
import harp
print(*(set(sys.modules) - before))
"""


def test_client_library_is_light(run_python):
    loaded = set(run_python(LIGHTNESS, "-I").split())
    assert not HEAVY & loaded
    assert {name for name in loaded if name.startswith("harp")} <= {
        "harp", "harp.address", "harp.calls", "harp.channel", "harp.client",
        "harp.connections", "harp.errors", "harp.exchange", "harp.jobid",
        "harp.jsonline", "harp.outcome", "harp.proc", "harp.protocol", "harp.secret",
        "harp.settings", "harp.streams", "harp.protocol.parts", "harp.protocol.replies",
        "harp.protocol.requests", "harp.wire",
    }  # fmt: skip


EAGERNESS = f"""
import sys
sys.path.insert(0, {str(PACKAGE.parent)!r})
import harp.NAME
print(*sys.modules)
"""


@pytest.mark.parametrize(
    "name, needed", [("daemon", {"daemon"}), ("dispatcher", {"asked", "daemon"})]
)
def test_servers_load_what_clients_load_when_they_need_it(run_python, name, needed):
    loaded = set(run_python(EAGERNESS.replace("NAME", name), "-I").split())
    assert {f"harp.protocol.{part}" for part in needed} <= loaded


EFFECTS = f"""
import importlib, os, sys, threading
sys.path.insert(0, {str(PACKAGE.parent)!r})
before = os.listdir("/proc/self/fd")
for name in {sorted(NAMES)!r}:
    if not name.endswith("__main__"):
        importlib.import_module(name)
        assert threading.active_count() == 1, name
        assert os.listdir("/proc/self/fd") == before, name
"""


def test_modules_are_imported_without_any_effect(run_python):
    assert run_python(EFFECTS, "-I", "-W", "error") == ""


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_is_not_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < MAX_LINES


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "-C", TOP, "ls-files", "-z", "--cached", "--others"]
        + ["--exclude-standard"],
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:  # an unpacked archive
        return [path for path in TOP.rglob("*") if ".venv" not in path.parts]
    return [TOP / name for name in listed.stdout.split("\0") if name]


# The places where people, and not packages, keep their work.
PRIVATE_PATH = re.compile(
    rb"(?<![\w./-])/(?:home|Users|work|root|workspace|mnt|media)/[\w.-]+"
)


def test_no_file_names_a_path_of_a_developers_machine():
    found = []
    for path in tracked_files():
        if not path.is_file():
            continue
        content = path.read_bytes()
        if b"\0" not in content:
            found += [(path, match) for match in PRIVATE_PATH.findall(content)]
    assert not found


def test_private_paths_are_recognised():
    assert PRIVATE_PATH.search(b'open("/home/' + b'somebody/x")')
    assert not PRIVATE_PATH.search(b"/usr/share/home/x or a/ro" + b"ot/b")
