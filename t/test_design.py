"""The page of the design names each thread and each lock that the code has."""

import ast
import functools
import re

from conftest import TOP

PAGE = (TOP / "doc" / "design.rst").read_text(encoding="utf-8")
PACKAGE = TOP / "lib" / "harp"
LOCKS = {"Lock", "RLock", "Condition", "Semaphore", "allocate_lock"}
_ANY = "<>"


@functools.cache
def modules() -> list[tuple[str, ast.Module]]:
    """Each module's name below the package, and its tree."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found.append((name, ast.parse(path.read_text(encoding="utf-8"))))
    return found


def called(node) -> str | None:
    """The last name of what is called, if it is a call."""
    if not isinstance(node, ast.Call):
        return None
    return getattr(node.func, "attr", getattr(node.func, "id", None))


def text_of(node) -> str:
    """A name in the code: what isn't known stands as ``<>``."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.JoinedStr), ast.dump(node)
    return "".join(
        part.value if isinstance(part, ast.Constant) else _ANY for part in node.values
    )


def threads_in_the_code() -> set[tuple[str, str]]:
    found = set()
    for module, tree in modules():
        for node in ast.walk(tree):
            if called(node) == "Thread":
                [name] = [key.value for key in node.keywords if key.arg == "name"]
                found.add((text_of(name), module))
            if called(node) == "ThreadPoolExecutor":
                given = {key.arg: key.value for key in node.keywords}
                prefix = text_of(given.get("thread_name_prefix") or node.args[1])
                found.add((f"{prefix}_{_ANY}", module))
    return found


def locks_in_the_code() -> set[str]:
    found = set()
    for module, tree in modules():
        for owner in ast.walk(tree):
            if not isinstance(owner, ast.ClassDef):
                continue
            for node in ast.walk(owner):
                if isinstance(node, ast.Assign) and called(node.value) in LOCKS:
                    found.add(f"{module}.{owner.name}")
    return found


def rows(begin: str) -> list[list[str]]:
    """The first lines of the rows of all tables whose first column has that title:
    what stands in ``literals`` in their first two columns."""
    found = []
    for table in re.findall(
        rf"^(=+  =+(?:  =+)?)\n{begin} .*\n=+.*\n((?:.+\n)+?)=+  =", PAGE, re.M
    ):
        first, second = (len(column) for column in table[0].split("  ")[:2])
        for line in table[1].splitlines():
            if line.startswith("``"):
                cells = line[:first], line[first + 2 : first + 2 + second]
                found.append([cell.strip(" `") for cell in cells])
    return found


def test_page_has_each_thread_and_who_starts_it():
    told = [(re.sub("<.+?>", _ANY, name), module) for name, module in rows("thread")]
    assert len(told) == len({*told}) > 15
    assert {*told} == threads_in_the_code()


def test_page_has_each_lock():
    told = [name for name, _ in rows("lock of")]
    assert len(told) == len({*told}) > 15
    assert {*told} == locks_in_the_code()
