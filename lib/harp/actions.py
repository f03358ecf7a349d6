"""What an init script does, for both daemons: start, stop, restart, try-restart,
reload, force-reload, status, with the exit statuses of the Linux Standard Base (LSB
core 5.0, "Init Script Actions"). Where a systemd unit of the daemon is active, the
actions are systemd's."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

from . import pidfile

OK = 0
FAILED = 1
NO_PERMISSION = 4
NOT_CONFIGURED = 6
NOT_RUNNING = 7

EX_CONFIG = 78
"""Exit status of a daemon's command whose configuration is at fault (sysexits.h)."""

# Of the action "status" only.
DEAD_WITH_PIDFILE = 1
STOPPED = 3
UNKNOWN = 4

_STOP_SECONDS = 120.0  # beyond any grace that a daemon gives its calls
_RELOAD_SECONDS = 60.0
_SYSTEMD = "/run/systemd/system"  # is there if systemd runs: sd_booted(3)
_ANSWER = ".reload"  # behind the pid file's name: where the daemon says how it went


class Service(NamedTuple):
    """A daemon that can be started.

    :ivar name: of the command and of its systemd unit
    :ivar command: starts it in the background, and ends when it serves or has failed
    :ivar pidfile: path
    """

    name: str
    command: list[str]
    pidfile: str


def default_pidfile(config: str, default_config: str, pidfile: str) -> str:
    """Return the pid file of a daemon for which none is named.

    :param config: absolute path of its configuration: with another one it is another
        daemon, and what stops it must not stop the first
    :param default_config: path of the first one's
    :param pidfile: path of the first one's
    """
    if config == default_config:
        return pidfile
    name, end = os.path.splitext(pidfile)
    return f"{name}-{config.strip('/').replace('/', '-')}{end}"


def run(action: str, service: Service) -> int:
    """Carry out an action and return the exit status."""
    status = hand_on(action, service.name)
    return run_here(action, service) if status is None else status


def hand_on(action: str, name: str) -> int | None:
    """Leave an action to systemd, and return the exit status; None: no unit of that
    name is active, it is ours.

    :param name: of the unit
    """
    if not _is_systemds(name):
        return None
    if action == "force-reload":
        action = "reload-or-restart"
    return subprocess.call(["systemctl", action, f"{name}.service"])


def run_here(action: str, service: Service) -> int:
    """Carry out an action by the pid file and return the exit status."""
    try:
        return ACTIONS[action](service)
    except PermissionError as error:
        where = error.filename or service.pidfile
        _say(service, f"{where}: {error.strerror}; are you root?")
        return UNKNOWN if action == "status" else NO_PERMISSION
    except OSError as error:
        _say(service, f"{error.filename or service.pidfile}: {error.strerror}")
        return FAILED


def answer_reload(path: str, faults: list[str]) -> None:
    """Tell a waiting ``reload``, if there is one, how it went. For the daemon.

    :param path: of the pid file
    :param faults: why all stays as it was; empty if it doesn't
    """
    try:
        fd = os.open(path + _ANSWER, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # nobody waits
    with open(fd, "wb", buffering=0) as file:
        try:
            file.write("\n".join(faults or ["ok"]).encode()[: select.PIPE_BUF])
        except OSError:
            pass  # it waits no more


def running(service: Service) -> int | None:
    """Return the process that the pid file is about, None if there is none that can be
    seen."""
    try:
        return pidfile.running(service.pidfile)
    except OSError:
        return None


def _start(service: Service) -> int:
    pid = pidfile.running(service.pidfile)
    if pid is not None:
        _say(service, f"runs already, process {pid}")
        return OK
    status = subprocess.call(service.command)
    if status == EX_CONFIG:
        return NOT_CONFIGURED
    return FAILED if status else OK


def _stop(service: Service) -> int:
    pid = pidfile.running(service.pidfile)
    if pid is not None and not _stop_process(pid):
        _say(service, f"process {pid} has not ended in {_STOP_SECONDS:.0f} s")
        return FAILED
    try:
        # A daemon that has dropped to another user can't.
        pidfile.remove_stale(service.pidfile)
    except pidfile.AlreadyRunning:
        pass  # somebody has started it meanwhile
    return OK


def _stop_process(pid: int) -> bool:
    return end(
        pid,
        lambda process: signal.pidfd_send_signal(process, signal.SIGTERM),
        _STOP_SECONDS,
    )


def end(pid: int, stop: Callable[[int], None], seconds: float | None) -> bool:
    """Stop a process and wait until it has gone; False: it hasn't.

    :param stop: called with a descriptor of the process (pidfd_open(2)), tells it
    :param seconds: to wait; None: as long as it takes
    """
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        stop(process)
        poll = select.poll()
        poll.register(process, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))
    except ProcessLookupError:
        return True
    finally:
        os.close(process)


def _restart(service: Service) -> int:
    return _stop(service) or _start(service)


def _try_restart(service: Service) -> int:
    return OK if pidfile.running(service.pidfile) is None else _restart(service)


def _reload(service: Service) -> int:
    pid = pidfile.running(service.pidfile)
    if pid is None:
        _say(service, "does not run")
        return NOT_RUNNING
    try:
        answer = _ask_to_reload(pid, service.pidfile + _ANSWER)
    except ProcessLookupError:
        answer = f"process {pid} has ended"
    if answer == "ok":
        return OK
    _say(service, answer or f"no word from process {pid} in {_RELOAD_SECONDS:.0f} s")
    return FAILED


def _ask_to_reload(pid: int, path: str) -> str:
    """Have a process reload, and return what it says; empty if it says nothing.

    :param path: of the FIFO to say it through
    """
    process = os.pidfd_open(pid)
    try:
        if os.path.lexists(path):
            os.unlink(path)  # left by one who was interrupted
        os.mkfifo(path, 0o600)
        # The daemon may have dropped to another user.
        if os.geteuid() == 0:
            os.chown(path, _user(pid), -1)
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as answers:
            signal.pidfd_send_signal(process, signal.SIGHUP)
            return _read_answer(answers, process)
    finally:
        os.close(process)
        if os.path.lexists(path):
            os.unlink(path)


def _user(pid: int) -> int:
    """Return the user that a process has dropped to. Its directory in /proc is root's
    then, as nobody else may look into it."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("Uid:"):
                return int(line.split()[2])
    raise ProcessLookupError


def _read_answer(answers, process: int) -> str:
    poll = select.poll()
    poll.register(answers, select.POLLIN)
    poll.register(process, select.POLLIN)
    ready = [fd for fd, _ in poll.poll(_RELOAD_SECONDS * 1000)]
    if answers.fileno() in ready:
        return answers.read(select.PIPE_BUF).decode("utf-8", "replace")
    if ready:
        raise ProcessLookupError
    return ""


def _status(service: Service) -> int:
    pid = pidfile.running(service.pidfile)
    if pid is not None:
        print(f"{service.name} runs, process {pid}")
        return OK
    if os.path.exists(service.pidfile):
        print(f"{service.name} does not run, but has left {service.pidfile}")
        return DEAD_WITH_PIDFILE
    print(f"{service.name} does not run")
    return STOPPED


ACTIONS = {
    "start": _start,
    "stop": _stop,
    "restart": _restart,
    "try-restart": _try_restart,
    "reload": _reload,
    "force-reload": _reload,
    "status": _status,
}


def _is_systemds(name: str) -> bool:
    # The unit itself does it, by ExecReload= for example. Before systemd 248 there is
    # only MAINPID to tell.
    if os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()):
        return False
    if "MAINPID" in os.environ:
        return False
    if not os.path.isdir(_SYSTEMD) or shutil.which("systemctl") is None:
        return False
    return not subprocess.call(["systemctl", "is-active", "--quiet", f"{name}.service"])


def _say(service: Service, text: str) -> None:
    for line in text.splitlines():
        print(f"{service.name}: {line}", file=sys.stderr)
