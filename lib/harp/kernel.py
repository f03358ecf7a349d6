"""What a process of ours tells the kernel about itself."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_COMM_BYTES = 15  # proc(5)

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent dies. A change of user undoes
    it. If the parent has died already, exit.

    :param parent: pid
    """
    _set_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def outlive_parent() -> None:
    """Undo :func:`die_with_parent`."""
    _set_death_signal(0)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own has ended, as long as this process
    lives: they stay its descendants, and can be found."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _set_death_signal(number: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def set_process_name(name: str) -> None:
    """Set the name that ``ps`` and ``top`` show; cut to what the kernel keeps. Root
    may, and others before they change their user."""
    data = name.encode("utf-8", "replace").replace(b"\0", b"?")[:_COMM_BYTES]
    try:
        fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
    except OSError:
        pass  # a name is not worth a call
