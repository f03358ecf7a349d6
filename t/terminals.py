"""A terminal for commands that look at whether they have one."""

import fcntl
import os
import pty
import struct
import subprocess
import termios


def run_on_terminal(command, columns=80, environment=None, status=0, answer=None):
    """Run a command with a terminal as its standard output; return what it printed.

    :param answer: what somebody types; the terminal is standard input and error, too
    """
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
    variables = {**os.environ, **(environment or {})}
    other = None if answer is None else its
    with subprocess.Popen(
        command, stdin=other, stdout=its, stderr=other, env=variables
    ) as process:
        os.close(its)
        os.write(ours, answer or b"")
        printed = b""
        try:
            while data := os.read(ours, 65536):
                printed += data
        except OSError:  # EIO: the last one that had it has closed it
            pass
    os.close(ours)
    assert process.returncode == status
    return printed.decode(errors="backslashreplace").replace("\r\n", "\n")
