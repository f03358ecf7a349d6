"""Processes of a call: finding them in /proc, and ending them all.

A call's processes are those of its session and all descendants of its first one, to
which those whose parents have ended are given (``kernel.adopt_orphans``). Only what has
left the session before the first process ended gets away, as a service does that was
started on purpose.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque, namedtuple

_PAUSE = 0.01  # s between two looks whether a session has gone

Process = namedtuple("Process", ("pid", "parent", "session", "start"))


def look_at(pid: int) -> Process | None:
    """Return a process that is alive, None if there is no such one."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        data = os.read(fd, 4096)
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
    # The name, in parentheses, may hold anything. proc(5) numbers the fields after
    # it from 3: state, ppid, pgrp, session, ..., 20: threads, 22: start time.
    fields = data[data.rindex(b")") + 2 :].split()
    # A zombie is gone, though its parent may never ask for the status; but not one
    # whose first thread has ended and whose others go on.
    if fields[0] in (b"Z", b"X") and int(fields[17]) <= 1:
        return None
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]))


class Snapshot:
    """All processes at one time."""

    def __init__(self) -> None:
        self._processes: dict[int, Process] = {}
        self._children: dict[int, list[Process]] = {}
        for name in os.listdir("/proc"):
            process = look_at(int(name)) if name.isdecimal() else None
            if process is not None:
                self._processes[process.pid] = process
                self._children.setdefault(process.parent, []).append(process)

    def has(self, pid: int) -> bool:
        return pid in self._processes

    def family(self, leader: int, known: dict[int, int]) -> list[Process]:
        """Return the processes of the session that ``leader`` leads or led, those
        that are known, and all descendants of any of them. The leader is the first, so
        that it can't take the end of the others for something to go on from.

        :param known: start times by pid
        """
        found: dict[int, Process] = {}
        left = deque(
            process
            for process in self._processes.values()
            if leader in (process.session, process.pid)
            or known.get(process.pid) == process.start
        )
        if leader in self._processes:
            left.appendleft(self._processes[leader])
        while left:
            process = left.popleft()
            if process.pid not in found:
                found[process.pid] = process
                left += self._children.get(process.pid, ())
        return list(found.values())


def kill_session(leader: int, deadline: float) -> bool:
    """Kill what is left of a session whose leader the kernel kills, and somebody else
    waits for; tell whether nothing is.

    As long as there is one of its processes, no other process gets the leader's number.
    So if somebody has it for good, it is another session's by now, and left alone.

    :param deadline: on the monotonic clock
    """
    while time.monotonic() < deadline:
        snapshot = Snapshot()
        left = snapshot.family(leader, {})
        if not left:
            return True
        if not snapshot.has(leader):
            for process in left:
                try:
                    os.kill(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                except PermissionError:
                    return False
        time.sleep(_PAUSE)
    return False


class Killing:
    """The end of a call's processes: SIGTERM, after a grace SIGKILL, until none is
    left.

    The leader must not have been waited for before the end of all this: as long as
    it is at least a zombie, no other process and no other session can get its number.

    :param leader: pid of the call's first process, leader of its session
    :param merciless_at: on the monotonic clock, when SIGTERM has had its time
    """

    def __init__(self, leader: int, merciless_at: float) -> None:
        self._leader = leader
        self._merciless_at = merciless_at
        self._signal = signal.SIGTERM
        self._victims: dict[int, int] = {}  # start times by pid
        self._untouchable: set[tuple[int, int]] = set()

    def extend(self, snapshot: Snapshot) -> bool:
        """Signal those that weren't known yet; tell whether there were any."""
        found = False
        for process in snapshot.family(self._leader, self._victims):
            if process.pid in self._victims:
                continue
            if (process.pid, process.start) in self._untouchable:
                continue
            found = True
            self._victims[process.pid] = process.start
            self._send(process.pid)
        return found

    def any_left(self, now: float) -> bool:
        """Tell whether one that is known is alive. If all are gone, another
        :meth:`extend` tells whether they forked meanwhile."""
        for pid in list(self._victims):
            if not self._is_alive(pid):
                del self._victims[pid]
        if now >= self._merciless_at and self._signal != signal.SIGKILL:
            self._signal = signal.SIGKILL
            for pid in list(self._victims):
                self._send(pid)
        return bool(self._victims)

    def _is_alive(self, pid: int) -> bool:
        process = look_at(pid)
        return process is not None and process.start == self._victims[pid]

    def _send(self, pid: int) -> None:
        if not self._is_alive(pid):
            return
        try:
            os.kill(pid, self._signal)
        except ProcessLookupError:
            pass  # it was faster
        except PermissionError:
            # Of another user, through sudo for example, and we are not root.
            self._untouchable.add((pid, self._victims.pop(pid)))
