"""What the fuzzers share: values and bytes that programs stumble over, and mutations of
what is valid. All of it follows from a seed and the number of the case: whatever a case
finds, it finds again alone."""

import json
import random
from collections.abc import Iterator

# --- known nasties ------------------------------------------------------------------


class Raw(str):
    """JSON text, or what looks like it, that goes out as it stands."""

    __slots__ = ()


NASTY_STRINGS = [
    "",
    " ",
    "\0",
    "a\0b",
    "\n",
    "\r\n{}\r\n",
    "\ufeff",
    "\ud800",
    "\udcff/\udfff",
    "\u2028\u202e",
    "é" * 300,
    "\U0001f4a9",
    "x" * 70_000,
    "/",
    "../../../../etc/passwd",
    "active/.new",
    ".",
    "..",
    "~",
    "*",
    "%s%n%d{0}{message}",
    "$(reboot)`reboot`;reboot",
    "' OR 1=1 --",
    "<script>",
    "__proto__",
    "__class__",
    "None",
    "null",
    "NaN",
    "true",
    "1",
    "-1",
    "01966f2c-0000-7000-8000-000000000000",
    "01966f2c-0000-7000-8000-00000000000/",
    "01966F2C-0000-7000-8000-000000000000",
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-7fff-bfff-ffffffffffff",
    "unix:/tmp",
    "127.0.0.1:0",
    "[::1]:99999",
    "xn--\u00df..example",
    "." * 300,
]

NASTY_VALUES = [
    None,
    True,
    False,
    0,
    -0.0,
    -1,
    1.0,
    0.5,
    1e308,
    5e-324,
    2**31,
    2**32,
    2**53 + 1,
    2**63,
    -(2**63) - 1,
    2**64,
    10**18,
    [],
    {},
    [[]],
    [None],
    {"": {}},
    {"__proto__": {"a": 1}, "constructor": 1},
    [0] * 2000,
    Raw("9" * 4300),
    Raw("-" + "9" * 4300),
    Raw("1e-999"),
    Raw("0." + "3" * 5000),
    Raw('"\\ud83d"'),
    Raw('"\\udc00\\ud800"'),
    Raw("[" * 110 + "]" * 110),
    Raw('{"a":' * 120 + "1" + "}" * 120),
]

BROKEN_VALUES = [
    Raw("9" * 4301),
    Raw("1" + "0" * 50_000),
    Raw("1e999"),
    Raw("-1e999"),
    Raw("NaN"),
    Raw("Infinity"),
    Raw("-Infinity"),
    Raw("-"),
    Raw("01"),
    Raw("1."),
    Raw("+1"),
    Raw("0x10"),
    Raw("tru"),
    Raw("undefined"),
    Raw("'a'"),
    Raw('"unclosed'),
    Raw('"\\x41"'),
    Raw('"\\u12"'),
    Raw('"tab\there"'),
    Raw('{"a":1,"a":2}'),
    Raw('{"a":1,"\\u0061":2}'),
    Raw('{"a":1,}'),
    Raw("{1:2}"),
    Raw("[1,]"),
    Raw("[" * 137 + "]" * 137),
    Raw("[" * 5000 + "]" * 5000),
    Raw("[" * 100_000),
    Raw('{"a":' * 130 + "1" + "}" * 130),
    Raw('{"a":' * 3000 + "1" + "}" * 3000),
    Raw("]" * 50),
]

NASTY_KEYS = [
    "",
    "__proto__",
    "harp",
    "harpcaller",
    "auth",
    "error",
    "result",
    "stream",
    "cancel",
    "host",
    "wait",
    "\0",
    "\ud800",
    "k" * 5000,
]

NASTY_LINES = [
    b"",
    b"\n",
    b"\r\n",
    b"   \t \n",
    b"\0\n",
    b"\0" * 5000 + b"\n",
    b"null\n",
    b"true\n",
    b"1\n",
    b'"text"\n',
    b"[]\n",
    b"{}\n",
    b"{}{}\n",
    b"{}\r\r\n",
    b"{\n",
    b"}\n",
    b"[" * 200_000 + b"\n",
    b'{"a":' * 100_000 + b"\n",
    b'{"' + b"a" * 100_000 + b"\n",
    b"{" + b" " * 100_000 + b"}\n",
    b"\xef\xbb\xbf{}\n",
    b"\xff\xfe{\0}\0\n\0",
    b"\xff\n",
    b"\xc0\x80\n",
    b"\xed\xa0\x80\n",
    b'{"a":"\xed\xa0\x80"}\n',
    b'{"a":"\xf4\x90\x80\x80"}\n',
    b'{"\x80":1}\n',
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40,
    b"\x16\n",
    b"\x80\x2e\x01\0\x02\0\x15\0\0\0\x10\n",
    b"\x15\x03\x03\0\x02\x02\x28",
    b"\x04",
    b"quit\n",
]

# --- mutations ----------------------------------------------------------------------


def cases(seed: object, count: int) -> Iterator["Mutator"]:
    """Return as many mutators; the one of a number is always the same."""
    return (Mutator(f"{seed}/{number}") for number in range(count))


class Mutator:
    """Makes something odd of what is valid.

    :param case: names the case: the seed, and what fails says it
    :ivar random: a source of numbers that follow from it
    """

    def __init__(self, case: str) -> None:
        self.case = case
        self.random = random.Random(case)

    def __repr__(self) -> str:
        return f"Mutator({self.case!r})"

    def happens(self, probability: float) -> bool:
        return self.random.random() < probability

    def line(self, message: object, keep: tuple[str, ...] = ()) -> bytes:
        """Return a valid message as a line that is odd in one to three ways, in its
        values or in its bytes.

        :param keep: keys whose values stay as they are, mostly
        """
        text = to_text(self.message(message, keep))
        errors = "surrogatepass" if self.happens(0.03) else "backslashreplace"
        data = text.encode("utf-8", errors)
        if self.happens(0.1):
            data = self.bytes(data)
        if self.happens(0.1):
            return data + self.random.choice([b"\r\n", b" \n", b"\n\n", b"\0\n", b""])
        return data + b"\n"

    def message(self, message: object, keep: tuple[str, ...] = ()) -> object:
        """Return a copy of a JSON value in which something is odd; it may hold
        :class:`Raw`.

        :param keep: as for :meth:`line`
        """
        changed = message
        kept = set() if self.happens(0.1) else {(key,) for key in keep}
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            paths = [path for path in _paths(changed) if path[:1] not in kept]
            paths = self.random.choices(paths or [()], k=2)
            # Rather deep inside: most of what is wrong at the top is refused at once.
            changed = self._change_at(changed, max(paths, key=len))
        return changed

    def _change_at(self, value, path):
        if path:
            key, *rest = path
            copy = value.copy()
            copy[key] = self._change_at(value[key], rest)
            return copy
        if isinstance(value, dict) and value and self.happens(0.7):
            return self._change_keys(value)
        if isinstance(value, list) and value and self.happens(0.5):
            return self._change_items(value)
        if isinstance(value, str) and self.happens(0.5):
            return self._change_string(value)
        if isinstance(value, (bool, int, float)) and self.happens(0.5):
            return self._change_number(value)
        return self.nasty()

    def nasty(self) -> object:
        """Return a known nasty value."""
        kinds = [NASTY_STRINGS, NASTY_VALUES, NASTY_VALUES, BROKEN_VALUES]
        return self.random.choice(self.random.choice(kinds))

    def _change_keys(self, value: dict):
        key = self.random.choice(list(value))
        rest = {name: found for name, found in value.items() if name != key}
        way = self.random.randrange(6)
        if way == 0:
            return rest
        if way == 1:
            return rest | {self.random.choice(NASTY_KEYS): value[key]}
        if way == 2:
            return value | {self.random.choice(NASTY_KEYS): self.nasty()}
        if way == 3:
            twice = f"{json.dumps(key)}:{to_text(value[key])}"
            return Raw(f"{to_text(value)[:-1]},{twice}}}")
        if way == 4:
            return value | {key: self.nasty()}
        other = self.random.choice(list(value))
        return value | {key: value[other], other: value[key]}

    def _change_items(self, value: list) -> list:
        at = self.random.randrange(len(value))
        way = self.random.randrange(4)
        if way == 0:
            return value[:at] + value[at + 1 :]
        if way == 1:
            return value[:at] + [self.nasty()] + value[at:]
        if way == 2:
            return value * self.random.choice([2, 3, 50])
        return value[::-1]

    def _change_string(self, value: str) -> object:
        at = self.random.randrange(len(value) + 1)
        way = self.random.randrange(5)
        if way == 0:
            return value[:at] + self.random.choice(NASTY_STRINGS) + value[at:]
        if way == 1:
            return value[:at]
        if way == 2:
            return value.swapcase()
        if way == 3:
            return [value]
        return Raw(json.dumps(value)[:-1])

    def _change_number(self, value) -> object:
        return self.random.choice(
            [
                -value,
                value + 1,
                value * 10**9,
                Raw(f"{value}.0"),
                bool(value),
                str(value),
                [value],
                Raw(f"{value}e0"),
                Raw(f"{value}" + "0" * 400),
            ]
        )

    def bytes(self, data: bytes) -> bytes:
        """Return bytes in which something is odd: of a line, or of a whole file."""
        changed = bytearray(data)
        for _ in range(self.random.choice([1, 1, 2, 5])):
            at = self.random.randrange(len(changed) + 1)
            end = min(len(changed), at + self.random.choice([1, 1, 2, 8, 64]))
            way = self.random.randrange(7)
            if way == 0 and at < len(changed):
                changed[at] ^= 1 << self.random.randrange(8)
            elif way == 1:
                del changed[at:end]
            elif way == 2:
                changed[at:at] = changed[at:end] * self.random.choice([1, 2, 100])
            elif way == 3:
                changed[at:at] = self.random.randbytes(self.random.choice([1, 2, 30]))
            elif way == 4:
                changed[at:at] = self.random.choice(NASTY_LINES)
            elif way == 5:
                del changed[at:]
            else:
                changed[at:at] = self.random.choice(
                    [b"\n", b"\r\n", b"\0", b"\xef\xbb\xbf", b"\xff", b'"', b"{", b"]"]
                )
        return bytes(changed)

    def lines(self, data: bytes) -> bytes:
        """Return a file of lines in which lines are missing, twice, in another order,
        or changed."""
        lines = data.splitlines(keepends=True)
        for _ in range(self.random.choice([1, 1, 2, 3])):
            if not lines:
                break
            at = self.random.randrange(len(lines))
            way = self.random.randrange(6)
            if way == 0:
                del lines[at]
            elif way == 1:
                lines.insert(self.random.randrange(len(lines) + 1), lines[at])
            elif way == 2:
                self.random.shuffle(lines)
            elif way == 3:
                lines.insert(at, self.random.choice(NASTY_LINES))
            elif way == 4:
                lines[at] = self._other_line(lines[at])
            else:
                lines[at] = self.bytes(lines[at])
        return b"".join(lines)

    def _other_line(self, line: bytes) -> bytes:
        try:
            return self.line(json.loads(line))
        except (ValueError, RecursionError):
            return self.bytes(line)

    def pieces(self, data: bytes) -> list[bytes]:
        """Return the data cut into at most a dozen pieces."""
        cuts = self.random.choice([0, 0, 1, 2, 5, 11])
        places = sorted(self.random.randrange(len(data) + 1) for _ in range(cuts))
        ends = [*places, len(data)]
        return [data[at:end] for at, end in zip([0, *places], ends) if at < end]


def everywhere(message: dict) -> Iterator[bytes]:
    """Return lines: a valid message with each known nasty value in each place, and
    with each key left out."""
    for path in _paths(message)[1:]:
        for value in NASTY_STRINGS + NASTY_VALUES + BROKEN_VALUES:
            yield _line(_replaced(message, path, [value]))
        yield _line(_replaced(message, path, []))


def _line(message: object) -> bytes:
    return to_text(message).encode("utf-8", "backslashreplace") + b"\n"


def _replaced(value, path: tuple, new: list):
    """:param new: what comes in its place, one or none"""
    key, *rest = path
    copy = value.copy()
    if rest:
        new = [_replaced(value[key], rest, new)]
    if isinstance(copy, list):
        copy[key : key + 1] = new
    elif new:
        copy[key] = new[0]
    else:
        del copy[key]
    return copy


def to_text(value: object) -> str:
    """Return the JSON text of a value that may hold :class:`Raw`."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)}:{to_text(item)}" for key, item in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(to_text, value)) + "]"
    # What isn't ASCII goes out both ways, as itself and as an escape.
    return json.dumps(value, ensure_ascii=len(repr(value)) % 2 == 0)


def _paths(value, path=()) -> list[tuple]:
    """Return the paths to all values in a value; itself is at the empty one."""
    found = [path]
    if isinstance(value, dict):
        for key, item in value.items():
            found += _paths(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:50]):
            found += _paths(item, (*path, index))
    return found
