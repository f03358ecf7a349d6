"""Configuration files, checked against their tables."""

import dataclasses
import re

from ipaddress import ip_network

import pytest

from harp import config, kinds, listener, rights
from harp.address import Address
from harp.config import ConfigError, DaemonConfig, DispatcherConfig
from harp.listener import Listener
from harp.protocol.admin import Stop
from harp.rights import EVERYTHING, Rights

TABLES = pytest.mark.parametrize("table", [DaemonConfig, DispatcherConfig])
PATH = "/etc/x.toml"


def faults_of(content: dict, table: type) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.check(content, table, PATH)
    assert str(caught.value) == "\n".join(caught.value.faults)
    return caught.value.faults


def nested(name: str, value: object) -> dict:
    """``{"limits": {"calls": 5}}`` for limits.calls."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


# --- the tables ---------------------------------------------------------------------


def rows(table: type) -> list:
    return [pytest.param(table, name, id=f"{name}") for name in config.keys(table)]


ROWS = pytest.mark.parametrize(
    ("table", "name"), rows(DaemonConfig) + rows(DispatcherConfig)
)


@TABLES
def test_empty_file_means_the_defaults(table):
    loaded = config.check({}, table, PATH)
    assert loaded == table()
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.listen = ()


@ROWS
def test_default_is_what_could_stand_in_the_file(table, name):
    field, row = config.keys(table)[name]
    if row.default is None:
        assert getattr(table(), field) is None
    else:
        loaded = config.check(nested(name, row.default), table, PATH)
        assert getattr(loaded, field) == getattr(table(), field)


@ROWS
def test_row_says_what_it_is_for(table, name):
    _, row = config.keys(table)[name]
    assert row.name == name and row.meaning and row.kind.text
    assert row.unit in ("", "s", "bytes")
    is_size = row.kind is kinds.SIZE
    is_time = row.kind in (kinds.SECONDS, kinds.WHOLE_SECONDS, kinds.DURATION)
    is_time = is_time or row.kind is kinds.AGE
    assert row.unit == ("bytes" if is_size else "s" if is_time else "")
    assert re.fullmatch(r"[a-z_]+(\.[a-z_]+)?", name)


@ROWS
def test_value_of_a_wrong_type_is_a_fault_with_file_and_key(table, name):
    _, row = config.keys(table)[name]
    for value in ([[]], object()):
        (fault,) = faults_of(nested(name, value), table)
        assert fault.startswith(f"{PATH}: {name}: ")
        assert fault.removeprefix(f"{PATH}: {name}: ")


@TABLES
def test_fault_is_a_short_line_whatever_is_in_the_file(table):
    for name in ("a\nb\x1b[2J\u2028", "k" * 100_000):
        (fault,) = faults_of({name: 1}, table)
        assert fault.isprintable() and len(fault) < 2000
        assert fault.startswith(f"{PATH}: {name[0]}")
        assert fault.endswith(": unknown key")


# --- kinds of values ----------------------------------------------------------------

MAX = 10**9
CASES = {
    "STRING": ([("", ""), ("ä", "ä")], [1, True, None, [], {}, "/a\0b"]),
    "BOOLEAN": ([(True, True), (False, False)], [0, 1, "true", None]),
    "SECONDS": (
        [(1, 1), (0.001, 0.001), (MAX, MAX)],
        [0, -1, 0.0, MAX + 1, float("inf"), float("nan"), True, "1", None],
    ),
    "WHOLE_SECONDS": ([(1, 1), (MAX, MAX)], [0, -1, 1.5, 1.0, MAX + 1, True, "1"]),
    "COUNT": ([(1, 1), (10**12, 10**12)], [0, -1, 1.0, True, "1", []]),
    "SIZE": (
        [(1, 1), ("1 KiB", 1024), ("16MiB", 16 << 20), ("2 GiB", 2 << 30)],
        [0, -1, 1.5, True, "", "1", "0 KiB", "1 KB", "1 kib", "-1 KiB", "1.5 MiB"]
        + ["1  KiB", "1 KiB\n", "MiB", "٣ KiB", []],
    ),
    "DURATION": (
        [(0.5, 0.5), (60, 60), ("40s", 40), ("15 m", 900), ("12h", 43200)],
        [0, -1, True, None, "", "1", "30 days", "1.5d", "d", "-1d", "1d\n", "٣d", []]
        + [MAX + 1, "99999999d", float("inf"), float("nan")],
    ),
    "AGE": (
        [("1d", 86400), (86400.5, 86400.5), ("4 w", 28 * 86400), ("never", None)],
        [0, -1, True, None, "23h", 86399, "1", "", "30 days", "1.5d", "d", "-1d", []]
        + [MAX + 1, "99999999d", "1d\n", "٣d", "Never", float("inf"), float("nan")],
    ),
    "STOP": (
        [
            ("stop", Stop()),
            ("drain", Stop(True)),
            ("drain 1", Stop(True, 1)),
        ],
        ["", "drain ", "drain 0", "drain -1", "drain 1.5", "drain  1", "drain 1s", 1]
        + [f"drain {MAX + 1}", "drain ٣", "stop 1", "Stop", True, None, []],
    ),
    "USER": ([("root", "root"), (0, 0)], ["", -1, 1.0, True, [], None]),
    "STRINGS": (
        [([], ()), (["a", "b"], ("a", "b"))],
        ["a", [1], {"a": "b"}, None, ["a\0b"]],
    ),
    "STRING_TABLE": (
        [({}, {}), ({"a.b": "c"}, {"a.b": "c"})],
        [[], "a", {"a": 1}, {"a": {"b": "c"}}],
    ),
    "STRING_LISTS": (
        [({}, {}), ({"a": ["b", "c"], "d": []}, {"a": ("b", "c"), "d": ()})],
        [[], "a", {"a": "b"}, {"a": [1]}, {"a": {"b": []}}],
    ),
    "NETWORKS": (
        [
            ([], ()),
            (
                ["10.0.0.0/8", "::1"],
                (ip_network("10.0.0.0/8"), ip_network("::1/128")),
            ),
        ],
        ["10.0.0.0/8", ["10.0.0.1/8"], ["localhost"], [5], [""]],
    ),
    "TCP_ADDRESSES": (
        [
            (["*:4306"], (Address("*", 4306),)),
            (["a:1", "[::1]:2"], (Address("a", 1), Address("::1", 2))),
        ],
        [[], "a:1", ["a"], ["unix:/a"], [1], ["a:1", "b"], ["a\0b:1"]],
    ),
    "LISTENERS": (
        [
            (["unix:/a"], (Listener(Address(None, 0, "/a")),)),
            (
                [{"address": "127.0.0.1:0", "anonymous": True}],
                (Listener(Address("127.0.0.1", 0), anonymous=True),),
            ),
            (
                [{"address": "unix:/a", "mode": "600", "group": 5}, "unix:/b"],
                (
                    Listener(Address(None, 0, "/a"), mode=0o600, group=5),
                    Listener(Address(None, 0, "/b"), mode=0o660),
                ),
            ),
            (
                [{"address": "*:1", "tls": True, "allow_from": ["10.0.0.0/8"]}],
                (
                    Listener(
                        Address("*", 1),
                        tls=True,
                        allow_from=(ip_network("10.0.0.0/8"),),
                    ),
                ),
            ),
        ],
        [
            [],
            "unix:/a",
            ["127.0.0.1:3502"],
            [{"address": "127.0.0.1:3502"}],
            [{"address": "127.0.0.1:3502", "anonymous": False}],
            [{"address": "127.0.0.1:3502", "anonymous": "yes"}],
            [{"address": "127.0.0.1:3502", "anonymous": True, "mode": "0660"}],
            [{"address": "127.0.0.1:3502", "tls": False}],
            [{"address": "127.0.0.1:3502", "tls": True, "allow_from": "::/0"}],
            [{"address": "unix:/a", "anonymous": True}],
            [{"address": "unix:/a", "allow_from": ["10.0.0.0/8"]}],
            [{"address": "unix:/a", "mode": 660}],
            [{"address": "unix:/a", "mode": "0860"}],
            [{"address": "unix:/a", "group": ""}],
            [{"address": "unix:/a", "user": "root"}],
            [{"anonymous": True}],
            [5],
            ["unix:relative"],
            ["unix:/a\0b"],
        ],
    ),
    "RIGHTS": (
        [
            ({}, {}),
            (
                {"a": {"operations": ["read"], "hosts": ["web*"], "own_jobs": True}},
                {"a": Rights(frozenset(["read"]), hosts=("web*",), own_jobs=True)},
            ),
            ({"a": {"operations": ["*"]}}, {"a": EVERYTHING}),
        ],
        [
            [],
            {"a": []},
            {"a": {}},
            {"a": {"hosts": ["*"]}},
            {"a": {"operations": "read"}},
            {"a": {"operations": ["write"]}},
            {"a": {"operations": ["read"], "queues": "*"}},
            {"a": {"operations": ["read"], "own_jobs": 1}},
            {"a": {"operations": ["read"], "host": ["*"]}},
        ],
    ),
}


KINDS = {
    name: kind
    for module in (kinds, listener, rights)
    for name, kind in vars(module).items()
    if isinstance(kind, kinds.Kind)
}


@pytest.mark.parametrize(
    ("kind", "value", "parsed"),
    [(kind, value, parsed) for kind in CASES for value, parsed in CASES[kind][0]],
)
def test_value_is_taken_as_what_it_means(kind, value, parsed):
    result = KINDS[kind].parse(value)
    assert result == parsed and type(result) is type(parsed)


@pytest.mark.parametrize(
    ("kind", "value"), [(kind, value) for kind in CASES for value in CASES[kind][1]]
)
def test_value_that_is_not_of_its_kind_is_refused(kind, value):
    with pytest.raises(ValueError):
        KINDS[kind].parse(value)


def test_every_kind_has_its_cases():
    assert CASES.keys() == KINDS.keys()


def test_tcp_listener_without_a_word_about_its_clients_says_what_to_write():
    (fault,) = faults_of({"listen": ["127.0.0.1:3502"]}, DispatcherConfig)
    assert '{address = "127.0.0.1:3502", anonymous = true}' in fault


# --- files --------------------------------------------------------------------------

WHOLE = """
listen = ["127.0.0.1:0", "[::1]:4306"]
password_file = "/etc/harpd/users"
[tls]
certificate = "/c"
[users]
"web.frontend" = "sha256:00"
[procedures]
user = "nobody"
group = 65534
timeout = 2.5
traceback = true
[limits]
calls = 5
value = "1 GiB"
"""


def test_file_is_loaded_as_it_says(tmp_path):
    path = tmp_path / "harpd.toml"
    path.write_text(WHOLE)
    assert config.load(str(path), DaemonConfig) == dataclasses.replace(
        DaemonConfig(),
        listen=(Address("127.0.0.1", 0), Address("::1", 4306)),
        password_file="/etc/harpd/users",
        certificate="/c",
        users={"web.frontend": "sha256:00"},
        procedures_user="nobody",
        procedures_group=65534,
        default_timeout=2.5,
        traceback=True,
        max_calls=5,
        max_value=1 << 30,
    )


def test_all_faults_of_a_file_are_reported_at_once(tmp_path):
    path = tmp_path / "harpd.toml"
    path.write_text(
        "listen = 5\n"
        "lisen = []\n"
        "[limits]\n"
        "calls = 0\n"
        "cals = 1\n"
        "[users]\n"
        "web = 5\n"
        "[nowhere]\n"
        "to = 1\n"
    )
    with pytest.raises(ConfigError) as caught:
        config.load(str(path), DaemonConfig)
    assert caught.value.faults == [
        f'{path}: listen: must be an array of "ADDRESS:PORT"',
        f"{path}: lisen: unknown key; do you mean listen?",
        f"{path}: limits.calls: must be at least 1, is 0",
        f"{path}: limits.cals: unknown key; do you mean limits.calls?",
        f"{path}: users: web: must be a string",
        f"{path}: nowhere: unknown key",
    ]


@pytest.mark.parametrize("value", [5, "x", [], [{"calls": 5}], True])
def test_section_that_is_none_is_a_fault(value):
    (fault,) = faults_of({"limits": value}, DaemonConfig)
    assert fault == f"{PATH}: limits: must be a section, [limits]"


def test_dotted_key_is_the_same_as_a_section(tmp_path):
    path = tmp_path / "harpd.toml"
    path.write_text("limits.calls = 5\n")
    assert config.load(str(path), DaemonConfig).max_calls == 5


NOT_TOML = {
    "no value": b"listen",
    "array without an end": b"listen = [\n",
    "key that is there twice": b"a = 1\na = 2\n",
    "not UTF-8": b"\xff\xfe",
    "string without an end": b"a = 'x",
    "too many digits": b"a = " + b"1" * 5000,
    "too deep": b"a = " + b"[" * 100_000,
}


@pytest.mark.parametrize("content", NOT_TOML.values(), ids=NOT_TOML)
def test_file_that_is_not_toml_is_a_fault_that_names_it(tmp_path, content):
    path = tmp_path / "harpd.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config.load(str(path), DaemonConfig)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{path}: not TOML: ")
    assert len(fault) > len(f"{path}: not TOML: ")


def test_file_that_cannot_be_read_is_a_fault_that_says_why(tmp_path):
    for path, why in [
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ]:
        with pytest.raises(ConfigError) as caught:
            config.load(str(path), DaemonConfig)
        assert caught.value.faults == [f"{path}: {why}"]


def test_no_value_is_shown_that_could_be_a_password():
    content = {"users": {"web": ["hunter2"]}, "tls": {"key": ["hunter2"]}}
    assert "hunter2" not in str(faults_of(content, DaemonConfig))
