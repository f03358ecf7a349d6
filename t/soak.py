"""A soak: both daemons under a mixed load, with reloads, and with restarts and kills;
then everything must be where it was before. By itself::

    python t/soak.py SECONDS [SEED]
"""

import contextlib
import os
import random
import socket
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import harp  # noqa: E402
import leftovers  # noqa: E402
from harp import protocol, testing  # noqa: E402
from harp.dispatcher.checklog import LogCheck  # noqa: E402

PROCEDURES = Path(__file__).with_name("procedures_for_tests.py")
WORKERS = 6
_SETTLE_SECONDS = 60
_REST_SECONDS = 120
_SHOWN = 20  # lines of a log, from a traceback on
_POOLED = 4 * WORKERS
_GROWTH = 1.25  # of memory, times what there was after the first part of the load
_GROWTH_KB = 12_000  # and so much more: a thread's arena, a larger block or two

GOOD, CLOSED, WRONG = "good", "closed", "wrong"
"""Hosts: one that is as it should be, one where nobody listens, one whose certificate
is another one."""


class Levels(NamedTuple):
    """What there is of what could leak.

    :ivar threads: by process
    :ivar descriptors: by process
    :ivar processes: of both daemons together
    :ivar files: names, but for those of jobs and in the logs' place
    :ivar memory: resident, kB, by process
    """

    threads: dict[str, int]
    descriptors: dict[str, int]
    processes: int
    files: frozenset[str]
    memory: dict[str, int]

    def beyond(self, before: "Levels", pooled: int) -> list[str]:
        """Name what is more than it was, but for memory.

        :param pooled: threads that may still wait for something to do
        """
        more = []
        for kind, may in (("threads", pooled), ("descriptors", 0)):
            now, then = getattr(self, kind), getattr(before, kind)
            more += [
                f"{kind} of {name}: {now[name]}, were {then[name]}"
                for name in now
                if now[name] > then[name] + may
            ]
        if self.processes != before.processes:  # what stands by comes back, too
            more.append(f"processes: {self.processes}, were {before.processes}")
        more += [f"file {name}" for name in sorted(self.files - before.files)]
        return more

    def grown(self, before: "Levels") -> list[str]:
        """Name the processes that take much more memory than they did."""
        return [
            f"memory of {name}: {now} kB, were {before.memory[name]} kB"
            for name, now in self.memory.items()
            if now > before.memory.get(name, 0) * _GROWTH + _GROWTH_KB
        ]


class Soak:
    """Both daemons and those who use them.

    :param directory: for all their files
    :param seed: what the load follows from
    :ivar done: by what was done, how often
    :ivar faults: what was not as it should be
    """

    def __init__(self, directory, seed) -> None:
        self.directory = Path(directory)
        self.servers = testing.Servers(
            PROCEDURES,
            self.directory,
            hosts=[GOOD],
            daemon={"limits": {"standby": 2, "kill_grace": 0.5}},
            dispatcher={"limits": {"cancel_grace": 3}, "audit": {"file": "audit.log"}},
        )
        self._seed = seed
        # Guards the three below.
        self._lock = threading.Lock()
        self.done: dict[str, int] = {}
        self.faults: list[str] = []
        self._acknowledged: dict[str, str] = {}  # job ids, and what they were for
        self._rough = False  # whether servers go away and come again
        self._stopping = threading.Event()

    def run(self, seconds: float, say=lambda text: None) -> None:
        """Load them for so long, and see what is left.

        :param seconds: of load. From a minute on, the threads that wait for something
            to do are waited for as well, which takes half a minute more
        :param say: called with a text for people now and then
        :raises AssertionError: if something is not as it was
        """
        self._pooled = 0 if seconds >= 60 else _POOLED
        self._others = leftovers.take(self.directory.parent).processes
        with self.servers:
            idle = self._levels()
            self._write_hosts()
            self._load(seconds / 4, reloads=True)
            warm = self._rest(idle)
            say(f"warm: {warm.memory}")
            self._load(seconds / 2, reloads=True)
            after = self._rest(idle)
            say(f"idle: {idle}\nafter the load: {after}")
            self._load(seconds / 4, restarts=True)
            self._start_all()
            self._load(seconds / 8)
            end = self._rest(idle)
            say(f"after restarts: {end}\n{self.done}")
            self._check_jobs()
        self.faults += after.grown(warm) + end.grown(warm)
        self.faults += self._faults_in_logs()
        assert not self.faults, "\n".join(self.faults[:20])

    # --- the load ---

    def _load(self, seconds, reloads=False, restarts=False) -> None:
        self._rough = restarts
        self._stopping.clear()
        threads = [
            threading.Thread(target=self._work, args=(number,), name=f"soak-{number}")
            for number in range(WORKERS)
        ]
        for thread in threads:
            thread.start()
        try:
            self._disturb(time.monotonic() + seconds, reloads, restarts)
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()

    def _disturb(self, deadline, reloads, restarts) -> None:
        chance = random.Random(f"{self._seed}/disturb/{deadline}")
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, chance.uniform(0.1, 1.0)))
            program = chance.choice([self.servers.daemon, self.servers.dispatcher])
            if reloads:
                program.reload(_SETTLE_SECONDS)
                self._count("reload")
            elif restarts:
                self._restart(program, chance.choice(["stop", "kill"]))

    def _restart(self, program, way) -> None:
        getattr(program, way)()
        self._count(way)
        if program is self.servers.dispatcher:
            self.servers.start_dispatcher()
        else:
            program.start(_SETTLE_SECONDS)
            self._write_hosts()  # its port is another one

    def _start_all(self) -> None:
        for program in (self.servers.daemon, self.servers.dispatcher):
            self._restart(program, "stop")

    def _write_hosts(self) -> None:
        good = self.servers.host_entry()
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))  # and not listened on
            port = sock.getsockname()[1]
        closed = good | {"hostname": CLOSED, "port": port}
        wrong = good | {"hostname": WRONG, "cert_sha256": "0" * 64}
        self.servers.write_hosts([good, closed, wrong])
        if not self._rough:
            self.servers.dispatcher.reload(_SETTLE_SECONDS)
            self._wait_for_host()

    def _wait_for_host(self) -> None:
        deadline = time.monotonic() + _SETTLE_SECONDS
        with self._caller() as rpc:
            while rpc.host(GOOD).echo(1).result() != 1:
                assert time.monotonic() < deadline, "the host is not known"
                time.sleep(0.1)

    def _caller(self) -> harp.HarpCaller:
        host, port = self.servers.dispatcher_address
        return harp.HarpCaller(host, port, retry_for=30, resume_for=30)

    def _work(self, number) -> None:
        chance = random.Random(f"{self._seed}/{number}/{time.monotonic()}")
        with self._caller() as rpc:
            while not self._stopping.is_set():
                action = chance.choice(_ACTIONS)
                try:
                    action(self, rpc, chance)
                except Exception as error:
                    # Whoever goes away leaves others with nothing, and says so.
                    if not (self._rough and isinstance(error, _EXPECTED)):
                        self._fail(f"{action.__name__}: {error!r}")
                self._count(action.__name__.strip("_"))

    def _count(self, what) -> None:
        with self._lock:
            self.done[what] = self.done.get(what, 0) + 1

    def _fail(self, text) -> None:
        with self._lock:
            self.faults.append(text)

    def _submitted(self, call, what):
        with self._lock:
            self._acknowledged[call.id()] = what
        return call

    def _expect(self, call, wanted, *types) -> None:
        """Wait for a call's end.

        :param wanted: what it returns
        :param types: of errors, one of which it ends with instead
        """
        found = call.result()
        if isinstance(found, (harp.RemoteError, harp.RemoteException)):
            is_right = found.type in types
        else:
            is_right = found == wanted and not types
        rough = isinstance(found, harp.RemoteError) and found.type in _ROUGH_TYPES
        if not is_right and not (self._rough and rough):
            self._fail(f"{self._acknowledged[call.id()]}: {found!r}")

    # --- what clients do ---

    def _echo(self, rpc, chance) -> None:
        value = "x" * chance.choice([1, 100, 100_000])
        self._expect(self._submitted(rpc.host(GOOD).echo(value), "echo"), value)

    def _queue(self, rpc, chance) -> None:
        queue = {"number": chance.randrange(3)}
        host = rpc.host(GOOD, queue=queue, concurrency=2)
        calls = [self._submitted(host.echo(n), "queue") for n in range(4)]
        for n, call in enumerate(calls):
            self._expect(call, n)

    def _raise(self, rpc, chance) -> None:
        call = self._submitted(rpc.host(GOOD).fail(), "raise")
        self._expect(call, None, "ValueError")

    def _stream(self, rpc, chance) -> None:
        count = chance.choice([0, 10, 500])
        call = self._submitted(rpc.host(GOOD).count(count), "stream")
        followed = list(call.follow(since=0))
        if followed != list(range(count)) and not self._rough:
            self._fail(f"stream of {count} had {len(followed)} packets")
        self._expect(call, count)

    def _leave_stream(self, rpc, chance) -> None:
        call = self._submitted(rpc.host(GOOD).count(50, 0.005), "left stream")
        for _ in range(chance.randrange(1, 4)):
            sock = socket.create_connection(self.servers.dispatcher_address, 10)
            with sock:
                line = b'{"harpcaller":1,"follow_stream":"%b","since":0}\n'
                sock.sendall(line % call.id().encode())
                sock.recv(chance.randrange(1, 200))
                if chance.random() < 0.5:
                    linger = struct.pack("ii", 1, 0)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._expect(call, 50)

    def _cancel(self, rpc, chance) -> None:
        call = self._submitted(rpc.host(GOOD).sleep(600), "cancel")
        time.sleep(chance.uniform(0, 0.05))
        if not call.cancel() and not self._rough:
            self._fail("a call that sleeps was not cancelled")
        self._expect(call, harp.CALL_CANCELLED)

    def _time_out(self, rpc, chance) -> None:
        if chance.random() < 0.5:
            call = rpc.host(GOOD).sleep_too_long()
        else:
            call = rpc.host(GOOD, timeout=1).sleep(60)
        self._expect(self._submitted(call, "time out"), None, "timeout")

    def _fail_to_connect(self, rpc, chance) -> None:
        for host, type_ in (
            (CLOSED, "network_error"),
            (WRONG, "certificate_error"),
            ("nobody", "unknown_host"),
        ):
            self._expect(self._submitted(rpc.host(host).echo(1), host), None, type_)

    def _look(self, rpc, chance) -> None:
        for status in rpc.jobs(limit=20):
            rpc.job(status["job_id"]).explain()
        rpc.queues()

    def _call_directly(self, rpc, chance) -> None:
        if self.servers.direct().echo("direct") != "direct":
            self._fail("a direct call returned something else")

    def _leave_directly(self, rpc, chance) -> None:
        with self.servers.direct().count(1000, 0.01) as stream:
            for _ in range(chance.randrange(5)):
                next(stream)

    def _garbage(self, rpc, chance) -> None:
        address = chance.choice(
            [self.servers.dispatcher_address, self.servers.daemon_address]
        )
        # Who doesn't speak TLS where it is spoken may be cut off.
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection(address, 10) as sock,
        ):
            sock.sendall(chance.randbytes(chance.choice([0, 1, 500])))
            if chance.random() < 0.5:
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(4096):
                    pass

    # --- what is left ---

    def _rest(self, idle: Levels) -> Levels:
        """Wait until there is no more than when all was idle."""
        with self._caller() as rpc:
            for state in ("queued", "running"):
                for status in rpc.jobs(state=state):
                    rpc.job(status["job_id"]).result()
        deadline = time.monotonic() + _REST_SECONDS
        while True:
            found = self._levels()
            if not (more := found.beyond(idle, self._pooled)):
                return found
            if time.monotonic() > deadline:
                self.faults += more
                return found
            time.sleep(0.5)

    def _levels(self) -> Levels:
        daemon, dispatcher = self.servers.daemon.pid, self.servers.dispatcher.pid
        # A retired spawner may still have its calls; the last one is the one that is.
        ours = leftovers.take(self.directory).processes
        ours = {pid: ours[pid] for pid in ours if pid not in self._others}
        pids = {"harpcallerd": dispatcher, "harpd": daemon}
        # Its children have its command line, and it has another parent after a reload.
        spawners = [pid for pid, line in ours.items() if "spawner" in line]
        for pid in spawners:
            if _parent(pid) not in spawners:
                pids["spawner"] = pid
        names = {
            str(path.relative_to(self.directory))
            for path in self.directory.rglob("*")
            if path.suffix != ".jsonl" and "done" not in path.parts
        }
        names |= {f"tmp/{name}" for name in os.listdir(tempfile.gettempdir())}
        return Levels(
            {name: _count(pid, "task") for name, pid in pids.items()},
            {name: _count(pid, "fd") for name, pid in pids.items()},
            len(ours),
            frozenset(names),
            {name: _memory(pid) for name, pid in pids.items()},
        )

    def _check_jobs(self) -> None:
        """Whatever was acknowledged has ended, and its file is whole."""
        jobs = self.directory / "jobs"
        ended = {path.stem for path in (jobs / "done").glob("*/*.jsonl")}
        for job_id in self._acknowledged.keys() - ended:
            self.faults.append(f"{self._acknowledged[job_id]} {job_id}: has not ended")
        self.faults += map(str, LogCheck(str(jobs)).faults())
        with self._caller() as rpc:
            for status in rpc.jobs(limit=200):
                if status["outcome"] not in protocol.OUTCOMES:
                    self.faults.append(f"{status['job_id']}: {status}")

    def _faults_in_logs(self) -> list[str]:
        faults = []
        for program in (self.servers.daemon, self.servers.dispatcher):
            lines = program.log().splitlines()
            faults += [
                "\n  ".join([f"{program}:", *lines[number : number + _SHOWN]])
                for number, line in enumerate(lines)
                if "Traceback" in line or "ResourceWarning" in line
            ]
        return faults


_ACTIONS = [
    Soak._echo,
    Soak._echo,
    Soak._queue,
    Soak._raise,
    Soak._stream,
    Soak._leave_stream,
    Soak._cancel,
    Soak._time_out,
    Soak._fail_to_connect,
    Soak._look,
    Soak._call_directly,
    Soak._leave_directly,
    Soak._garbage,
]
_EXPECTED = (harp.CommunicationError, harp.RemoteError, OSError, testing.ProgramError)
_ROUGH_TYPES = ("shutdown", "missing_result", "network_error", "process_died")


def _count(pid: int, what: str) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/{what}"))
    except FileNotFoundError:
        return 0  # it has ended


def _memory(pid: int) -> int:
    return _status(pid, "VmRSS")


def _parent(pid: int) -> int:
    return _status(pid, "PPid")


def _status(pid: int, name: str) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0


def main(seconds: str, seed: str = "1") -> None:
    leftovers.mark()
    with tempfile.TemporaryDirectory() as directory:
        soak = Soak(Path(directory) / "soak", seed)
        with tempfile.TemporaryDirectory() as scratch:
            tempfile.tempdir = scratch
            soak.run(float(seconds), lambda text: print(text, flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
