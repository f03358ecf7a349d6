"""The demo: both daemons, for real, in a directory of their own, and what can be done
with them. All that it says is checked; what isn't so ends it."""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import pprint
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import harp
from harp import errors
from harp.testing import Servers, SetupError

from . import output

_EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "procedures.py"
_PACKAGED_EXAMPLES = "demo_procedures.py"  # its copy, where we are installed
_INDENT = "   "
_CHART_COLUMNS = 48
_FAILED = 1
_SECONDS = 60  # for all steps, which take three; what takes longer hangs


class CheckFailed(Exception):
    """Raised when something isn't as it should be."""


def run(directory: str | None, keep: bool) -> int:
    """Run the demo and return its exit status.

    :param directory: where to keep everything; None: a temporary directory
    :param keep: leave both daemons running
    """
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # it is watched, in a pipe too
    with _Interrupts() as interrupts:
        try:
            _run(directory, keep, interrupts)
            return 0
        except BrokenPipeError:
            raise
        except (CheckFailed, SetupError, harp.HarpException, OSError) as error:
            # A Ctrl-C in the terminal also goes to the commands that we run.
            if interrupts.number is None:
                return _fail(error, directory)
        except KeyboardInterrupt:
            pass
        if interrupts.number == signal.SIGALRM:
            return output.fail(_FAILED, f"the demo has not ended in {_SECONDS} s")
        output.note("interrupted; both daemons are stopped")
        return 128 + interrupts.number


def _run(directory: str | None, keep: bool, interrupts: _Interrupts) -> None:
    place = _make_place(directory)
    kept = False
    try:
        with contextlib.ExitStack() as running:
            procedures = place / "procedures.py"
            procedures.touch(mode=0o600)
            procedures.write_bytes(_read_examples())
            servers = Servers(procedures, place)
            running.enter_context(servers)
            with interrupts.allowed():
                Tour(servers).run()
                _say_goodbye(servers, directory, keep)
            if keep:
                running.pop_all()
                kept = True
    finally:
        if directory is None and not kept:
            shutil.rmtree(place)


def _read_examples() -> bytes:
    if _EXAMPLES.is_file():
        return _EXAMPLES.read_bytes()
    return pkgutil.get_data(__package__, _PACKAGED_EXAMPLES)


def _fail(error: Exception, directory: str | None) -> int:
    reason, *details = str(error).splitlines()
    output.fail(_FAILED, f"the demo has failed: {reason}")
    for line in details:  # the end of a daemon's log
        output.note(_INDENT + line)
    if details and directory is None:
        output.note("--dir DIR keeps the logs")
    return _FAILED


def _make_place(directory: str | None) -> Path:
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="harpcaller-demo-"))
    place = Path(directory)
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_empty = not any(place.iterdir())
    except OSError as error:
        reason = f"can't be made: {error.strerror}"
        raise output.UsageError(f"--dir: {directory}: {reason}") from None
    if not is_empty:
        text = f"--dir: {directory} is not empty: name a new directory"
        raise output.UsageError(text)
    return place


class _Interrupts:
    """SIGINT, SIGTERM, SIGHUP, and the end of the demo's time, raise KeyboardInterrupt
    where that does no harm, and once only. Elsewhere, when starting or cleaning up,
    they are noted: an exception there could leave behind what was just made.

    :ivar number: the signal that came, or None
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)

    def __init__(self) -> None:
        self.number: int | None = None
        self._allowed = False

    def __enter__(self) -> _Interrupts:
        self._previous = {
            number: signal.signal(number, self._handle)
            for number in self._SIGNALS
            if signal.getsignal(number) != signal.SIG_IGN  # as nohup has it
        }
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame) -> None:
        if self.number is None:
            self.number = number
        if self._allowed:
            self._allowed = False
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def allowed(self):
        self._allowed = True
        if self.number is not None:
            self._allowed = False
            raise KeyboardInterrupt
        signal.alarm(_SECONDS)
        try:
            yield
        finally:
            self._allowed = False
            signal.alarm(0)


class Console:
    """Shows lines of Python as an interpreter does, and runs them.

    :ivar names: the variables there; ``_`` is the last value shown
    """

    def __init__(self, **names: object) -> None:
        self.names = names

    def run(
        self, code: str, raises: type[Exception] | None = None
    ) -> Exception | None:
        """Run lines of code and show what they print.

        :param raises: exception that the code must raise; it is returned then
        """
        for number, line in enumerate(code.splitlines()):
            print(_INDENT + ("... " if number else ">>> ") + line, flush=True)
        previous = sys.displayhook
        sys.displayhook = self._display
        try:
            exec(compile(code + "\n", "<demo>", "single"), self.names)
        except Exception as error:
            if raises is None or not isinstance(error, raises):
                raise
            print(f"{_INDENT}{type(error).__name__}: {error}")
            return error
        else:
            _check(raises is None, f"{code}: has not raised {raises}")
            return None
        finally:
            sys.displayhook = previous

    def _display(self, value: object) -> None:
        self.names["_"] = value
        if value is not None:
            print(textwrap.indent(pprint.pformat(value, sort_dicts=False), _INDENT))


class Tour:
    """What the demo shows, step by step."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._step = 0
        self._streamed = ""  # id of the job that streams
        self._rpc = servers.caller()
        self._console = Console(rpc=self._rpc, harp=harp, os=os)
        self._names = self._console.names

    def run(self) -> None:
        with self._rpc:
            self._take_steps()

    def _take_steps(self) -> None:
        self._introduce()
        self._call_with_positional_arguments()
        self._call_with_named_arguments()
        self._follow_a_stream()
        self._call_what_raises()
        self._call_what_is_unknown()
        self._queue_calls()
        self._cancel_a_call()
        self._read_from_another_process()
        self._show_the_file()

    def _introduce(self) -> None:
        daemon, dispatcher = self._servers.daemon, self._servers.dispatcher
        host, port = self._servers.dispatcher_address
        print(
            f"""\
HarpCaller at work: both daemons, for real, on this machine and for a moment.

   harpd        on {daemon.addresses[0]}, process {daemon.pid},
                with the procedures of examples/procedures.py
   harpcallerd  on {dispatcher.addresses[0]}, process {dispatcher.pid},
                which knows harpd as host "localhost" and trusts its certificate
   files        in {self._servers.directory}

The Python below is what runs, after these lines:

   >>> import harp, os
   >>> rpc = harp.HarpCaller("{host}", {port})"""
        )

    def _title(self, title: str, explanation: str) -> None:
        self._step += 1
        print(f"\n{self._step}. {title}")
        print(textwrap.indent(textwrap.fill(explanation, 76), _INDENT) + "\n")

    # --- the steps ---

    def _call_with_positional_arguments(self) -> None:
        self._title(
            "A call",
            "It is answered at once, with a job. The result can be read when it is "
            "there, by anybody, as often as wanted.",
        )
        self._console.run('job = rpc.localhost.disk_usage("/")')
        self._console.run("job")
        self._console.run("job.get()")
        _check(self._names["_"], "it does not see the disk")

    def _call_with_named_arguments(self) -> None:
        self._title(
            "A call with named arguments",
            "harpd checks them against the procedure's signature before it runs.",
        )
        self._console.run('rpc.localhost.process_state(name="harpd").get()')
        pids = [process["pid"] for process in self._names["_"]]
        _check(self._servers.daemon.pid in pids, "it does not see harpd")

    def _follow_a_stream(self) -> None:
        self._title(
            "A stream, followed live",
            "Values come as they are produced; who asks later gets them from the "
            "dispatcher. show() prints a value, and when it came.",
        )
        begin = time.monotonic()
        arrivals = []

        def show(value: object) -> None:
            arrivals.append(time.monotonic() - begin)
            print(f"{_INDENT}after {arrivals[-1]:.2f} s: {value}", flush=True)

        self._names["show"] = show
        self._console.run("job = rpc.localhost.watch_load(interval=0.2, times=4)")
        self._console.run("for value in job.follow(since=0):\n    show(value)")
        _check(len(arrivals) == 4, f"{len(arrivals)} values came instead of 4")
        _check(arrivals[-1] - arrivals[0] > 0.3, "the values came all at once")
        self._streamed = self._names["job"].id()

    def _call_what_raises(self) -> None:
        self._title(
            "A procedure that raises",
            "What it raises arrives as RemoteException: get() raises it, result() "
            "returns it.",
        )
        self._console.run("job = rpc.localhost.withdraw(amount=150, balance=100)")
        error = self._console.run("job.get()", raises=harp.RemoteException)
        _check(error.type == "NotEnough", f"it raised another one: {error}")

    def _call_what_is_unknown(self) -> None:
        self._title(
            "A procedure that does not exist",
            "A call that can't be carried out is a RemoteError. It tells whether the "
            "procedure's code was entered: if not, it is safe to call again.",
        )
        self._console.run("error = rpc.localhost.no_such_procedure().result()")
        self._console.run("error.type, error.message, error.ran")
        error = self._names["error"]
        _check(
            (error.type, error.ran) == (errors.NO_SUCH_PROCEDURE, "no"), repr(error)
        )

    def _queue_calls(self) -> None:
        self._title(
            "Six calls in a queue, two at a time",
            "The queue is in the dispatcher. Each call returns when it began and when "
            "it ended, by the clock of the machine where it ran.",
        )
        self._console.run(
            'server = rpc.host("localhost", queue={"for": "demo"}, concurrency=2)'
        )
        self._console.run("jobs = [server.wait(0.4) for _ in range(6)]")
        self._console.run("runs = [job.get() for job in jobs]")
        runs = [(run["begin"], run["end"]) for run in self._names["runs"]]
        print()
        for line in chart(runs):
            print(_INDENT + line)
        check_queue(runs, 2)

    def _cancel_a_call(self) -> None:
        self._title(
            "A long call, cancelled",
            "It streams its process id. When cancel() returns, that process is gone.",
        )
        self._console.run("job = rpc.localhost.count_down(start=600)")
        self._console.run("stream = job.follow(since=0)")
        self._console.run('pid = next(stream)["pid"]')
        alive = 'os.path.exists(f"/proc/{pid}")'
        self._console.run(alive)
        _check(self._names["_"] is True, "the process is not there")
        self._console.run("job.cancel()")
        _check(self._names["_"] is True, "the call was not cancelled")
        self._console.run(alive)
        _check(self._names["_"] is False, "the process is still there")
        self._console.run("stream.all()")
        self._console.run("stream.result()")
        _check(self._names["_"] is harp.CALL_CANCELLED, "the stream has no end")

    def _read_from_another_process(self) -> None:
        self._title(
            "The status of a job, and its result, in another process",
            "All that it needs is the job's id. Here it is the command line.",
        )
        self._console.run("job = rpc.localhost.uptime()")
        self._console.run("uptime = job.get()")
        job_id = self._names["job"].id()
        status = self._command("status", job_id)
        _check(status["job_id"] == job_id, "it is another job")
        result = self._command("result", job_id)
        _check(result == self._names["uptime"], "the result is another one")

    def _command(self, *arguments: str):
        words = [*_dispatcher_option(self._servers), *arguments]
        print(f"{_INDENT}$ harpcaller {shlex.join(words)}", flush=True)
        process = subprocess.run(
            [sys.executable, sys.argv[0], *words],
            capture_output=True,
            text=True,
            check=False,
        )
        _check(process.returncode == 0, process.stderr.strip())
        print(textwrap.indent(process.stdout, _INDENT), end="")
        return json.loads(process.stdout)

    def _show_the_file(self) -> None:
        self._title(
            "The file of a job",
            "All that the dispatcher knows of a job is in one file: the call, its "
            "start, what it streamed, its end. tail, grep and jq can read it. This is "
            "the job that was followed above.",
        )
        directory = self._servers.directory
        found = list(directory.rglob(f"{self._streamed}.jsonl"))
        _check(len(found) == 1, f"there is no file of job {self._streamed}")
        print(f"{_INDENT}$ cat {found[0].relative_to(directory)}")
        text = found[0].read_text()
        print(textwrap.indent(text, _INDENT), end="")
        _check(text.count('{"packet":') == 4, "not all values are in it")


def chart(runs: list[tuple[float, float]]) -> list[str]:
    """Draw who ran when.

    :param runs: start and end of each, in seconds
    """
    begin = min(start for start, _ in runs)
    scale = _CHART_COLUMNS / (max(end for _, end in runs) - begin)
    lines = []
    for number, (start, end) in enumerate(runs, 1):
        first = int((start - begin) * scale)
        bar = "#" * max(1, int((end - begin) * scale) - first)
        lines.append(
            f"{number}  |{' ' * first + bar:{_CHART_COLUMNS}}|"
            f"  {start - begin:.2f} to {end - begin:.2f} s"
        )
    return lines


def check_queue(runs: list[tuple[float, float]], concurrency: int) -> None:
    """Check who ran when.

    :param runs: start and end of each, in the order of submission
    :raises CheckFailed: if more of them ran at a time than may, or fewer than can, or a
        later one before an earlier one
    """
    at_a_time = [
        sum(start <= moment < end for start, end in runs) for moment, _ in runs
    ]
    _check(
        max(at_a_time) == concurrency,
        f"{max(at_a_time)} ran at a time instead of {concurrency}",
    )
    starts = [start for start, _ in runs]
    # Those that run at the same time may begin in either order.
    for earlier, later in zip(starts, starts[concurrency:]):
        _check(earlier < later, "they did not start in the order of submission")


def _check(condition: bool, otherwise: str) -> None:
    if not condition:
        raise CheckFailed(otherwise)


def _dispatcher_option(servers: Servers) -> list[str]:
    return ["--dispatcher", servers.dispatcher.addresses[0]]


def _say_goodbye(servers: Servers, directory: str | None, keep: bool) -> None:
    if not keep:
        print("\nAll as it should be. Both daemons are stopped now", end="")
        print("." if directory else ", and their files removed.")
        return
    command = shlex.join([output.program(), *_dispatcher_option(servers)])
    dispatcher = shlex.join(servers.dispatcher.argv)
    host, port = servers.dispatcher_address
    print(
        f"""
All as it should be. Both daemons go on running; to talk to them:

   {command} call localhost uptime
   {command} call --help
   {dispatcher} status
   >>> rpc = harp.HarpCaller("{host}", {port})

To stop them, and remove their files:

   kill {servers.dispatcher.pid} {servers.daemon.pid}
   rm -r {shlex.quote(str(servers.directory))}"""
    )
