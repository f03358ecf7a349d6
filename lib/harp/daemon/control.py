"""What the three kinds of process of harpd say to each other.

Front and spawner share a SOCK_SEQPACKET pair, which keeps messages apart; some carry
descriptors. The front gives a call to its process as one line of JSON on the socket
that the two of them share; everything that comes back on it are lines of the protocol
with the caller, relayed as they are.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections import namedtuple

from .. import __version__, wire

# From the front.
SETTINGS = 1  # text: Settings; the first message, but not to a successor
USED = 2  # number: this standby process got a call, fork the next one
KILL = 3  # number
SUCCEED = 4  # with one end of a channel: start a spawner on it
RETIRE = 10  # hardly any more calls come: keep one process ready, not many
# From the spawner.
LOADED = 5  # with a memfd that holds the table of procedures
FAILED = 6  # text: why the procedures don't load; the last message
STANDBY = 7  # number, pid; with the process's socket and the reading end of its output
EXITED = 8  # number, pid, status; all processes that were to be killed are gone
UNABLE = 9  # status: errno of a fork that failed, sent once until one works again

MAX_TEXT = 32 * 1024
_MAX_DESCRIPTORS = 2
_HEADER = struct.Struct("=BQii")


class OtherVersion(Exception):
    """Raised when a spawner is of another version than its daemon: one is started at
    each reload, from what is installed then."""


class Message(
    namedtuple("Message", ("kind", "number", "pid", "status", "text", "descriptors"))
):
    """A message on the channel.

    :ivar number: of a call; a standby process has the number of its call to be
    :ivar status: exit status, negative for a signal; or an errno
    :ivar descriptors: those that came along, now the receiver's
    """

    __slots__ = ()


def send(
    channel: socket.socket,
    kind: int,
    *,
    number: int = 0,
    pid: int = 0,
    status: int = 0,
    text: str = "",
    descriptors: tuple[int, ...] = (),
) -> None:
    """Send a message. Messages of several threads don't mix.

    :raises OSError: if the other side has gone
    """
    encoded = text.encode("utf-8", "backslashreplace")[:MAX_TEXT]
    data = _HEADER.pack(kind, number, pid, status) + encoded
    if descriptors:
        socket.send_fds(channel, [data], descriptors)
    else:
        channel.send(data)


def receive(channel: socket.socket) -> Message | None:
    """Return the next message, None if the other side has closed."""
    try:
        data, descriptors, _, _ = socket.recv_fds(
            channel, _HEADER.size + MAX_TEXT, _MAX_DESCRIPTORS
        )
    except ConnectionResetError:  # it has gone without reading all of ours
        return None
    if not data:
        return None
    header = _HEADER.unpack_from(data)
    text = data[_HEADER.size :].decode("utf-8", "replace")
    return Message(*header, text, descriptors)


class Settings(
    namedtuple(
        "Settings",
        (
            "procedures_file",
            "user",
            "group",
            "standby",
            "kill_grace",
            "max_value",
            "traceback",
            "open_files",
            "python_path",
            "environment",
            "source",
        ),
    )
):
    """What a spawner needs to know; as in :class:`harp.config.DaemonConfig`.

    :ivar procedures_file: absolute
    :ivar open_files: soft limit of descriptors that calls run with
    :ivar environment: all variables that calls share
    :ivar source: text of a :class:`Source`; None: there will be no successor
    """

    __slots__ = ()

    def to_text(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_text(cls, text: str) -> Settings:
        return cls(**json.loads(text))


class Source(namedtuple("Source", ("options", "open_files", "environment"))):
    """What the settings of a successor are made from, with the configuration.

    :ivar options: the daemon's command line: fields of its ``Options``
    :ivar open_files: as in :class:`Settings`
    :ivar environment: what calls have in their environment, whatever is configured
    """

    __slots__ = ()

    def to_text(self) -> str:
        return json.dumps({"version": __version__, **self._asdict()})

    @classmethod
    def from_text(cls, text: str) -> Source:
        """Read what a daemon has written.

        :raises OtherVersion: if that is of another version than we
        """
        fields = json.loads(text)
        version = fields.pop("version", None)
        if version != __version__:
            raise OtherVersion(
                f"harpd {__version__} is installed now, but {version} runs: "
                "restart it"
            )
        return cls(**fields)


class Description(
    namedtuple(
        "Description",
        ("name", "doc", "parameters", "streaming", "timeout", "concurrency", "uid")
        + ("account_fault",),
        defaults=(None,),
    )
):
    """A procedure, as the front knows it.

    :ivar parameters: list of objects with ``name``, ``kind`` and, as source text,
        ``default`` and ``annotation`` if there are such
    :ivar timeout: seconds; None: as configured
    :ivar concurrency: calls of it at a time; None: no limit of its own
    :ivar uid: what calls of it run as; None: unknown
    :ivar account_fault: why no call of it can run as it should; None if it can
    """

    __slots__ = ()


def write_table(descriptions: list[Description], digest: str) -> int:
    """Return a descriptor of a file that holds the table of procedures.

    :param digest: of their source
    """
    table = {
        "digest": digest,
        "procedures": [description._asdict() for description in descriptions],
    }
    fd = os.memfd_create("procedures")
    with open(fd, "wb", closefd=False) as file:
        file.write(json.dumps(table).encode())
    return fd


def read_table(fd: int) -> tuple[dict[str, Description], str]:
    """Return the procedures by name and the digest, and close the descriptor."""
    with open(fd, "rb") as file:
        file.seek(0)
        table = json.load(file)
    procedures = {
        entry["name"]: Description(**entry) for entry in table["procedures"]
    }
    return procedures, table["digest"]


class Order(
    namedtuple("Order", ("procedure", "arguments", "job_id", "user", "peer"))
):
    """A call, as its process gets it. Without the password."""

    __slots__ = ()

    def to_line(self) -> bytes:
        return wire.encode(self._asdict())

    @classmethod
    def from_line(cls, line: bytes) -> Order:
        return cls(**json.loads(line))
