"""The spawner: loads the procedures, forks a process for each call ahead of time, and
ends the processes of calls. The only part of harpd that needs to be root.

One process with one thread. It does what the front says over a channel (control.py),
holds no key, no password and no listening socket, and imports little, because each
fork copies the tables of its memory. When the channel closes, it kills all calls and
exits.

A call's first process, seen from here::

    standby --used--> in use --exits--> reported
       \\                 \\--kill-----> killed --none left--> reported
        \\--exits, or kill--^
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import NoReturn

from .. import accounts, hands, kernel
from . import call_account, control, loading, processes, runner

_RECHECK = 0.02  # s between two looks at processes that are to end
_RETRY = 0.2  # s until another try after a fork that failed, or came to nothing


def command(fd: int, source: str | None = None) -> list[str]:
    """Return the command line that starts a spawner on a channel.

    :param source: text of a :class:`~.control.Source` that it makes its settings from;
        None: it is told them

    Isolated, so that neither the directory nor the environment decides what is
    imported. The package may be inside of a zip file.
    """
    package = os.path.abspath(sys.modules[__package__.partition(".")[0]].__path__[0])
    script = (
        f"import sys; sys.path.insert(0, {os.path.dirname(package)!r}); "
        f"from {__name__} import main; main({fd}, {source!r})"
    )
    return [sys.executable, "-I", "-c", script]


def main(fd: int, source: str | None = None) -> None:
    """Be the spawner.

    :param fd: descriptor of the channel
    :param source: see :func:`command`
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # While the procedures are loaded nobody looks at the channel.
    kernel.die_with_parent(os.getppid())
    kernel.set_process_name("harpd-spawner")
    channel = socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    try:
        if source is None:
            message = control.receive(channel)
            if message is None:
                return
            settings = control.Settings.from_text(message.text)
        else:
            settings = _make_settings(source)
        os.chdir("/")
        _enter_surroundings(settings)
        procedures, digest = _load(settings)
    except loading.LoadingError as error:
        control.send(channel, control.FAILED, text=str(error))
        return
    procedures = {
        name: loaded._replace(account=_find_account(loaded, settings))
        for name, loaded in procedures.items()
    }
    table = control.write_table(
        [_describe(loaded, settings) for loaded in procedures.values()], digest
    )
    control.send(channel, control.LOADED, descriptors=(table,))
    os.close(table)
    kernel.outlive_parent()
    _prepare_for_calls()
    Spawner(channel, procedures, settings).run()


def _make_settings(source: str) -> control.Settings:
    """Make our settings from the files. In a process of its own: what reads them is
    large, and each fork would copy it.

    :raises LoadingError: if they can't be used, with a line for each reason
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _write_settings(source, writer)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0:
        raise loading.LoadingError(text or f"can't read settings: status {status}")
    return control.Settings.from_text(text)


def _write_settings(source: str, writer: int) -> NoReturn:
    status = 1
    try:
        from ..config import ConfigError
        from .settings import for_successor

        with open(writer, "wb") as file:
            try:
                text = for_successor(source).to_text()
                status = 0
            except (ConfigError, control.OtherVersion) as error:
                text = str(error)
            file.write(text.encode("utf-8", "backslashreplace"))
    except BaseException:
        status = 1
        sys.__excepthook__(*sys.exc_info())  # into the log
    finally:
        os._exit(status)


def _load(settings: control.Settings) -> tuple[dict[str, loading.Loaded], str]:
    """Return the procedures and their digest.

    :raises LoadingError: if they can't be used, with a line for each reason
    """
    faults = _check_hands(settings)
    if faults:
        raise loading.LoadingError("\n".join(faults))
    return loading.load(settings.procedures_file)


def _enter_surroundings(settings: control.Settings) -> None:
    """Set what all calls find around them."""
    os.environ.clear()  # a successor has inherited what was configured before
    os.environ.update(settings.environment)
    with contextlib.suppress(LookupError):
        me = accounts.find(os.getuid(), None)
        os.environ.update(HOME=me.home, USER=me.name, LOGNAME=me.name)
    sys.path[:0] = settings.python_path


def _check_hands(settings: control.Settings) -> list[str]:
    """Say what of the code that is about to run others could have written. Here, as
    the front, as another user, may not be able to look at it."""
    owner = os.getuid()
    found = hands.code_that_others_can_write(settings.procedures_file, owner)
    for path in settings.python_path:
        if not os.path.isdir(path):
            found.append(f"procedures.python_path: {path}: is no directory")
        found += [
            f"procedures.python_path: {text}"
            for text in hands.code_that_others_can_write(path, owner)
        ]
    return found


def _describe(
    loaded: loading.Loaded, settings: control.Settings
) -> control.Description:
    description = loading.describe(loaded, _uid_of(loaded))
    try:
        account = call_account.of_procedure(loaded.procedure, settings)
        if account is None or accounts.can_become(account):
            return description
        user = account.name or account.uid
        group = account.gid
        fault = f"harpd isn't root, and can't run it as user {user}, group {group}"
    except LookupError as error:
        fault = str(error.args[0])
    return description._replace(account_fault=fault)


def _find_account(
    loaded: loading.Loaded, settings: control.Settings
) -> accounts.Account | None:
    try:
        return call_account.of_procedure(loaded.procedure, settings)
    except LookupError:
        return None  # a call will look again, and say so


def _uid_of(loaded: loading.Loaded) -> int | None:
    if loaded.account is not None:
        return loaded.account.uid
    # Root never runs a procedure that nobody said it for.
    return os.getuid() or None


def _prepare_for_calls() -> None:
    """Do once what would cost every call its time."""
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Each child needs some here; calls get the limit back that harpd was started with.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for stream in (sys.__stdout__, sys.__stderr__):
        # By lines although it is no terminal, so that they are logged when printed.
        stream.reconfigure(
            encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
    # What is there now stays, in every child: the collector must not touch, and so
    # copy, its pages. Children enable it again.
    gc.collect()
    gc.disable()
    gc.freeze()


class _Child:
    """A call's first process, until it is waited for.

    :ivar pidfd: readable once it has exited
    :ivar watched: True while that is waited for
    :ivar killing: None unless it is to be killed
    """

    __slots__ = ("number", "pid", "pidfd", "watched", "standby", "killing")

    def __init__(self, number: int, pid: int, pidfd: int) -> None:
        self.number = number
        self.pid = pid
        self.pidfd = pidfd
        self.watched = True
        self.standby = True
        self.killing: processes.Killing | None = None


class Spawner:
    """The loop over the channel, the children and the clock."""

    def __init__(
        self,
        channel: socket.socket,
        procedures: dict[str, loading.Loaded],
        settings: control.Settings,
    ) -> None:
        self._channel = channel
        self._procedures = procedures
        self._settings = settings
        self._pid = os.getpid()
        self._closing = False
        self._last_number = 0
        self._by_number: dict[int, _Child] = {}
        self._by_pidfd: dict[int, _Child] = {}
        self._successors: dict[int, int] = {}  # pids by pidfd
        self._standby = 0
        self._standby_wanted = settings.standby
        self._unable = False
        self._fork_not_before = 0.0
        self._highest_fd = max(map(int, os.listdir("/proc/self/fd")))
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)

    def run(self) -> None:
        while not self._closing or self._by_number:
            to_kill = []
            exited = []
            for fd, _ in self._poll.poll(self._time_left()):
                if fd == self._channel.fileno():
                    to_kill += self._read_channel()
                elif fd in self._successors:
                    self._forget_successor(fd)
                else:
                    exited.append(self._by_pidfd[fd])
            # That a child was given a call is said before it can exit.
            while any(child.standby for child in exited) and self._is_told_more():
                to_kill += self._read_channel()
            for child in exited:
                self._child_exited(child)
            self._begin_to_kill(to_kill)
            self._go_on_killing()
            if self._wants_to_fork() and time.monotonic() >= self._fork_not_before:
                self._fork()

    def _time_left(self) -> float | None:
        """Return milliseconds until there is something to do; None: for ever."""
        if self._wants_to_fork():
            left = max(0.0, self._fork_not_before - time.monotonic())
            return min(left, _RECHECK) * 1000
        if any(child.killing for child in self._by_number.values()):
            return _RECHECK * 1000
        return None

    def _wants_to_fork(self) -> bool:
        return not self._closing and self._standby < self._standby_wanted

    # --- the channel ---

    def _read_channel(self) -> list[_Child]:
        """Do what the front says; return the children that it wants killed."""
        message = control.receive(self._channel)
        if message is None:
            self._closing = True
            self._poll.unregister(self._channel)
            return list(self._by_number.values())
        if message.kind == control.SUCCEED:
            for fd in message.descriptors:  # none if we are out of descriptors
                self._start_successor(fd)
            return []
        if message.kind == control.RETIRE:
            self._standby_wanted = 1
            return []
        child = self._by_number.get(message.number)
        if child is None:
            return []  # it has exited; the report is on its way
        self._leave_standby(child)
        return [child] if message.kind == control.KILL else []

    def _is_told_more(self) -> bool:
        if self._closing:
            return False
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        return bool(poll.poll(0))

    def _report(self, kind: int, **fields) -> None:
        try:
            control.send(self._channel, kind, **fields)
        except OSError:
            pass  # the front has gone; reading will tell

    def _start_successor(self, fd: int) -> None:
        arguments = command(fd, self._settings.source)
        try:
            pid = os.fork()
            if pid == 0:
                try:
                    os.set_inheritable(fd, True)
                    os.execv(arguments[0], arguments)
                finally:
                    os._exit(1)
            pidfd = _open_pidfd(pid)
        except OSError as error:
            # The front sees its end of the channel close.
            print(f"can't start a spawner: {error}", file=sys.stderr, flush=True)
        else:
            self._successors[pidfd] = pid
            self._poll.register(pidfd, select.POLLIN)
        os.close(fd)

    def _forget_successor(self, pidfd: int) -> None:
        """It has ended: its procedures did not load, or it has outlived our use."""
        self._poll.unregister(pidfd)
        os.close(pidfd)
        os.waitpid(self._successors.pop(pidfd), 0)

    # --- children ---

    def _fork(self) -> None:
        """Fork a standby process and hand it to the front."""
        try:
            child, sock, output = self._make_child()
        except OSError as error:
            self._fork_not_before = time.monotonic() + _RETRY
            if not self._unable:
                self._unable = True
                self._report(control.UNABLE, status=error.errno)
            return
        self._unable = False
        self._by_number[child.number] = child
        self._by_pidfd[child.pidfd] = child
        self._standby += 1
        self._poll.register(child.pidfd, select.POLLIN)
        self._report(
            control.STANDBY,
            number=child.number,
            pid=child.pid,
            descriptors=(sock.fileno(), output),
        )
        sock.close()
        os.close(output)

    def _make_child(self) -> tuple[_Child, socket.socket, int]:
        """Return a new child with the front's ends of its socket and output."""
        ours, its = socket.socketpair()
        with its:
            try:
                reader, writer = os.pipe()
            except OSError:
                ours.close()
                raise
            # A new descriptor gets the lowest number that is free.
            self._note_fds(ours.fileno(), its.fileno(), reader, writer)
            try:
                pid = os.fork()
                if pid == 0:
                    runner.run(
                        its,
                        writer,
                        self._highest_fd,
                        self._pid,
                        self._procedures,
                        self._settings,
                    )
                pidfd = _open_pidfd(pid)
            except OSError:
                ours.close()
                os.close(reader)
                raise
            finally:
                os.close(writer)
        self._note_fds(pidfd)
        self._last_number += 1
        return _Child(self._last_number, pid, pidfd), ours, reader

    def _note_fds(self, *fds: int) -> None:
        self._highest_fd = max(self._highest_fd, *fds)

    def _leave_standby(self, child: _Child) -> None:
        if child.standby:
            child.standby = False
            self._standby -= 1

    def _child_exited(self, child: _Child) -> None:
        self._stop_watching(child)
        if child.standby:
            # It has died, or the front has no descriptors for it. The next one may
            # fare no better.
            self._fork_not_before = time.monotonic() + _RETRY
        if child.killing is None:
            self._finish(child)
        # Otherwise it stays a zombie until all of its processes have gone.

    def _stop_watching(self, child: _Child) -> None:
        if child.watched:
            child.watched = False
            self._poll.unregister(child.pidfd)

    def _finish(self, child: _Child) -> None:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid == 0:
            return  # it has become another user's, whom we can't kill
        self._stop_watching(child)
        os.close(child.pidfd)
        del self._by_number[child.number], self._by_pidfd[child.pidfd]
        self._leave_standby(child)
        self._report(
            control.EXITED,
            number=child.number,
            pid=child.pid,
            status=os.waitstatus_to_exitcode(status),
        )

    # --- kills ---

    def _begin_to_kill(self, children: list[_Child]) -> None:
        merciless_at = time.monotonic() + self._settings.kill_grace
        new = [
            child
            for child in children
            if child.killing is None and child.number in self._by_number
        ]
        if not new:
            return
        snapshot = processes.Snapshot()
        for child in new:
            self._leave_standby(child)
            child.killing = processes.Killing(child.pid, merciless_at)
            child.killing.extend(snapshot)

    def _go_on_killing(self) -> None:
        now = time.monotonic()
        bare = [
            child
            for child in self._by_number.values()
            if child.killing is not None and not child.killing.any_left(now)
        ]
        if not bare:
            return
        # Taken after all that was known had gone, so that nothing slips through.
        snapshot = processes.Snapshot()
        for child in bare:
            if not child.killing.extend(snapshot):
                self._finish(child)


def _open_pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
