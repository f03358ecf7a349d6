"""Ends of a dispatcher, wanted and not, and what is there after the next start."""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time

import pytest
from dispatchers import (
    ACKNOWLEDGED,
    ACKNOWLEDGED_STREAM,
    HARPCALLERD,
    Dispatcher,
    call_request,
    host_entry,
    request,
    send,
)
from harp import jobid, testing
from harp.cli.output import MISCONFIGURED

QUEUE = {"name": {"q": 1}, "concurrency": 1}


@pytest.fixture
def make_dispatcher(tmp_path, daemon, certificate, request):
    def make(directory=tmp_path / "dispatcher", hosts=None, **changes):
        known = [host_entry(daemon.address, cert_sha256=certificate.sha256)]
        dispatcher = Dispatcher(directory, hosts or known, **changes)
        request.addfinalizer(dispatcher.stop)
        return dispatcher

    return make


@pytest.fixture
def dispatcher(make_dispatcher):
    dispatcher = make_dispatcher(limits={"cancel_grace": 2.0})
    dispatcher.start()
    return dispatcher


def restart(dispatcher):
    dispatcher.kill()
    dispatcher.start()


def wait_for_call(daemon, wait_for, procedure="wait", times=1):
    wait_for(lambda: daemon.called(procedure) == times)


def stream_then_wait(connection, received):
    send(connection, ACKNOWLEDGED_STREAM, {"stream": "a"}, {"stream": "b"})
    connection.read_to_end()


# --- killed -------------------------------------------------------------------------


def test_queued_jobs_run_in_order_after_a_crash(dispatcher, daemon, wait_for):
    first = dispatcher.call("wait", queue=QUEUE)
    wait_for_call(daemon, wait_for)
    queued = [dispatcher.call("echo", number, queue=QUEUE) for number in range(20)]
    restart(dispatcher)
    for number, job_id in enumerate(queued):
        assert dispatcher.result(job_id) == {"result": [number]}
    assert [one["arguments"] for one in daemon.requests[1:]] == [[n] for n in range(20)]
    end = dispatcher.result(first)["error"]
    # The acknowledgement is not on disk.
    assert (end["type"], end["ran"]) == ("missing_result", "maybe")
    assert daemon.called("wait") == 1


def test_running_jobs_end_missing_result_after_a_crash(dispatcher, daemon, wait_for):
    daemon.scripts["stream"] = stream_then_wait
    job_id = dispatcher.call("stream")
    wait_for(lambda: dispatcher.status(job_id)["packets"] == 2)
    before = dispatcher.status(job_id)
    restart(dispatcher)
    end = dispatcher.result(job_id)
    assert (end["error"]["type"], end["error"]["ran"]) == ("missing_result", "yes")
    status = dispatcher.status(job_id)
    assert status["time"]["start"] == before["time"]["start"]
    assert (status["state"], status["outcome"]) == ("done", "error")
    with dispatcher.connect() as client:
        client.send(request("follow_stream", job_id, since=0))
        packets, last = client.stream()
    assert [one["data"] for one in packets] == ["a", "b"]
    assert last == end
    restart(dispatcher)
    assert dispatcher.result(job_id) == end


def test_ended_jobs_are_as_they_were_after_a_crash(dispatcher):
    made = [dispatcher.call("count", number) for number in range(10)]
    made.append(dispatcher.call(host="nowhere"))

    def everything():
        with dispatcher.connect() as client:
            for job_id in made:
                client.send(
                    request("get_result", job_id),
                    request("get_status", job_id),
                    request("read_stream", job_id),
                )
            client.half_close()
            return client.rest()

    before = everything()
    before = everything()  # now they have all ended
    restart(dispatcher)
    assert everything() == before


def test_repeated_call_runs_nothing_twice_after_a_crash(dispatcher, daemon, wait_for):
    messages = {
        "done": call_request("echo", job_id=jobid.make()),
        "running": call_request("wait", job_id=jobid.make(), queue=QUEUE),
        "queued": call_request("echo", 1, job_id=jobid.make(), queue=QUEUE),
    }
    for message in messages.values():
        dispatcher.ask(message)
    dispatcher.result(messages["done"]["job_id"])
    wait_for_call(daemon, wait_for)
    restart(dispatcher)
    for message in messages.values():
        assert dispatcher.ask(message)["job_id"] == message["job_id"]
    assert dispatcher.result(messages["queued"]["job_id"]) == {"result": [1]}
    assert len(daemon.requests) == 3
    other = messages["queued"] | {"info": "other"}
    assert dispatcher.ask(other)["error"]["type"] == "invalid_request"


def test_queue_keeps_its_concurrency_over_a_crash(dispatcher, daemon, wait_for):
    job_ids = []
    for number in range(5):
        queue = {"name": {"q": "c"}, "concurrency": 2 if number == 0 else 5}
        job_ids.append(dispatcher.call("wait", queue=queue))
    wait_for_call(daemon, wait_for, times=2)
    restart(dispatcher)
    wait_for_call(daemon, wait_for, times=4)
    [queue] = dispatcher.ask(request("list_queues", True))["queues"]
    assert (queue["concurrency"], queue["running"], queue["waiting"]) == (2, 2, 1)
    for job_id in job_ids:
        dispatcher.cancel(job_id)


def test_later_calls_run_after_those_from_before_the_crash(
    dispatcher, daemon, wait_for
):
    dispatcher.call("wait", queue=QUEUE)
    wait_for_call(daemon, wait_for)
    first = dispatcher.call("wait", 1, queue=QUEUE)
    second = dispatcher.call("echo", 2, queue=QUEUE)
    restart(dispatcher)
    third = dispatcher.call("echo", 3, queue=QUEUE)
    wait_for_call(daemon, wait_for, times=2)
    restart(dispatcher)
    for job_id in (second, third):
        dispatcher.result(job_id)
    dispatcher.result(first)
    arguments = [one["arguments"] for one in daemon.requests]
    assert arguments == [[], [1], [2], [3]]


def test_follower_sees_the_same_bytes_before_and_after_a_crash(
    dispatcher, daemon, wait_for
):
    daemon.scripts["stream"] = stream_then_wait
    job_id = dispatcher.call("stream")
    with dispatcher.connect() as client:
        client.send(request("follow_stream", job_id, since=0))
        before = [client.line(), client.line()]
        dispatcher.kill()
        assert client.line() == b""
    dispatcher.start()
    with dispatcher.connect() as client:
        client.send(request("follow_stream", job_id, since=0))
        assert [client.line(), client.line()] == before
        assert client.reply()["error"]["type"] == "missing_result"


def follow_over_crashes(dispatcher, job_id, since, delay):
    """Follow a stream from a packet on, again after each crash from where it broke off;
    return all lines."""
    lines = []
    threading.Event().wait(delay)
    while True:
        try:
            with dispatcher.connect() as client:
                number = since + len(lines)
                client.send(request("follow_stream", job_id, since=number))
                while (line := client.line()).startswith(b'{"packet":'):
                    if line.endswith(b"\n"):
                        lines.append(line)
        except OSError:
            line = b""
        if line.endswith(b"\n"):
            return [*lines, line]
        # It has been killed: until it is back.
        threading.Event().wait(0.02)


@pytest.mark.parametrize(
    ("count", "followers"),
    [(5_000, 10), pytest.param(100_000, 50, marks=pytest.mark.slow)],
    ids=["few", "many"],
)
def test_followers_get_every_packet_once_over_a_crash_in_the_middle(
    dispatcher, daemon, in_thread, wait_for, count, followers
):
    def stream(connection, received):
        send(connection, ACKNOWLEDGED_STREAM)
        number = 0
        while True:
            send(connection, *({"stream": number + n} for n in range(50)))
            number += 50
            threading.Event().wait(0.001)

    daemon.scripts["stream"] = stream
    chance = random.Random(11)
    job_id = dispatcher.call("stream", max_exec_time=250)
    following = [
        in_thread(
            follow_over_crashes,
            dispatcher,
            job_id,
            number % 2 * chance.randrange(count),
            chance.uniform(0, 2),
        )
        for number in range(followers)
    ]
    wait_for(lambda: dispatcher.status(job_id)["packets"] >= count, deadline=200)
    restart(dispatcher)
    restart(dispatcher)
    with dispatcher.connect() as client:
        client.send(request("read_stream", job_id))
        whole = []
        while not whole or whole[-1].startswith(b'{"packet":'):
            whole.append(client.line())
    assert len(whole) > count
    for number, line in enumerate(whole[:-1]):
        assert line.startswith(b'{"packet":%d,' % number)
        assert line.endswith(b'"data":%d}\n' % number)
    end = dispatcher.result(job_id)
    assert (end["error"]["type"], end["error"]["ran"]) == ("missing_result", "yes")
    starts = random.Random(11)
    for number, follower in enumerate(following):
        since = number % 2 * starts.randrange(count)
        starts.uniform(0, 2)
        assert follower.result(120) == whole[since:]


@pytest.mark.parametrize(
    "rounds", [4, pytest.param(50, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_crash_under_load_loses_nothing_and_runs_nothing_twice(
    dispatcher, daemon, in_thread, rounds
):
    chance = random.Random(1)
    acknowledged, ends = [], {}

    def submit(stop, seed):
        mine = random.Random(seed)
        with contextlib.suppress(OSError, AssertionError, ValueError):
            with dispatcher.connect() as client:
                while not stop.is_set():
                    queue = {"name": {"q": mine.randrange(4)}, "concurrency": 2}
                    message = call_request("count", mine.randrange(20), queue=queue)
                    acknowledged.append(client.ask(message)["job_id"])

    def collect(stop):
        with contextlib.suppress(OSError, AssertionError, ValueError):
            with dispatcher.connect() as client:
                while not stop.is_set():
                    if acknowledged:
                        job_id = chance.choice(acknowledged)
                        end = client.ask(request("get_result", job_id, wait=False))
                        if "no_result" not in end:
                            assert ends.setdefault(job_id, end) == end

    for number in range(rounds):
        stop = threading.Event()
        threads = [in_thread(submit, stop, number * 10 + k) for k in range(3)]
        threads.append(in_thread(collect, stop))
        stop.wait(chance.uniform(0.02, 0.4))
        dispatcher.kill()
        stop.set()
        for thread in threads:
            thread.result()
        dispatcher.start()
    assert acknowledged
    with dispatcher.connect() as client:
        for job_id in acknowledged:
            end = client.ask(request("get_result", job_id))
            assert ends.get(job_id, end) == end
            assert "result" in end or end["error"]["type"] == "missing_result", end
    called = [one["job_id"] for one in daemon.requests]
    assert len(set(called)) == len(called)
    assert not list((dispatcher.jobs / "corrupt").iterdir())


# --- stopped ------------------------------------------------------------------------


def test_stop_ends_running_jobs_over_there_and_keeps_queued_ones(
    dispatcher, daemon, wait_for
):
    daemon.scripts["stream"] = stream_then_wait
    streaming = dispatcher.call("stream")
    running = dispatcher.call("wait", queue=QUEUE)
    queued = [dispatcher.call("echo", n, queue=QUEUE) for n in range(3)]
    wait_for_call(daemon, wait_for)
    wait_for(lambda: dispatcher.status(streaming)["packets"] == 2)
    assert dispatcher.stop() == 0
    wait_for(lambda: not daemon.serving)
    assert daemon.called("echo") == 0
    dispatcher.start()
    for job_id in (streaming, running):
        end = dispatcher.result(job_id)["error"]
        assert (end["type"], end["ran"]) == ("shutdown", "yes")
    for number, job_id in enumerate(queued):
        assert dispatcher.result(job_id) == {"result": [number]}
    assert "Traceback" not in dispatcher.log()


def test_result_that_still_comes_at_the_stop_is_kept(dispatcher, daemon, wait_for):
    def answer_late(connection, received):
        send(connection, ACKNOWLEDGED)
        connection.read_to_end()
        send(connection, {"result": "late"})

    daemon.scripts["late"] = answer_late
    job_id = dispatcher.call("late")
    wait_for_call(daemon, wait_for, "late")
    dispatcher.stop()
    dispatcher.start()
    assert dispatcher.result(job_id) == {"result": "late"}


def test_job_that_is_connecting_at_the_stop_waits_for_the_next_start(
    make_dispatcher, daemon, certificate, scripted_peer, wait_for
):
    silent = scripted_peer(lambda peer: peer.read_to_end())
    dispatcher = make_dispatcher(
        hosts=[host_entry(silent.address, cert_sha256=certificate.sha256)],
        limits={"connect_timeout": 60.0},
    )
    dispatcher.start()
    job_id = dispatcher.call("echo", 1)
    wait_for(lambda: silent.connections)
    before = time.monotonic()
    assert dispatcher.stop() == 0
    assert time.monotonic() - before < 5
    dispatcher.write_hosts([host_entry(daemon.address, cert_sha256=certificate.sha256)])
    dispatcher.start()
    assert dispatcher.result(job_id) == {"result": [1]}


def test_stop_waits_only_so_long_for_a_daemon_that_does_not_close(
    dispatcher, daemon, wait_for
):
    daemon.scripts["stuck"] = lambda *_: daemon.released.wait(60)
    job_id = dispatcher.call("stuck")
    wait_for_call(daemon, wait_for, "stuck")
    before = time.monotonic()
    assert dispatcher.stop() == 0
    assert 2 <= time.monotonic() - before < 5
    dispatcher.start()
    end = dispatcher.result(job_id)["error"]
    assert (end["type"], end["ran"]) == ("shutdown", "maybe")


def test_those_who_wait_are_told_of_the_stop(dispatcher, daemon, wait_for):
    first = dispatcher.call("wait", queue=QUEUE)
    wait_for_call(daemon, wait_for)
    queued = dispatcher.call("echo", queue=QUEUE)
    clients = []
    for operation in ("get_result", "follow_stream"):
        for job_id in (first, queued):
            clients.append(dispatcher.connect())
            clients[-1].send(request(operation, job_id))
    idle = dispatcher.connect()
    assert "hosts" in idle.ask(request("list_hosts", True))
    before = time.monotonic()
    stopping = threading.Thread(target=dispatcher.stop)
    stopping.start()
    replies = [client.reply() for client in clients]
    for client in (*clients, idle):
        assert client.line() == b""
        client.close()
    stopping.join()
    assert time.monotonic() - before < 5
    # The running job's end is stored first, and those who wait for it get it.
    for reply in replies[0::2]:
        assert "harpcaller" not in reply and reply["error"]["type"] == "shutdown"
    for reply in replies[1::2]:
        assert reply["harpcaller"] == 1 and reply["error"]["type"] == "shutdown"


def test_clients_that_do_not_listen_do_not_hold_up_the_stop(
    dispatcher, daemon, wait_for
):
    def pour(connection, received):
        send(connection, ACKNOWLEDGED_STREAM)
        for _ in range(300):
            send(connection, {"stream": "x" * 50_000})
        connection.read_to_end()

    daemon.scripts["pour"] = pour
    job_id = dispatcher.call("pour")
    clients = [dispatcher.connect(receive_buffer=4096) for _ in range(3)]
    for client in clients:
        client.send(request("follow_stream", job_id, since=0))
    clients.append(dispatcher.connect())
    clients[-1].send_bytes(b'{"harpcaller":1,')
    wait_for(lambda: dispatcher.status(job_id)["packets"] == 300)
    before = time.monotonic()
    assert dispatcher.stop() == 0
    assert time.monotonic() - before < 9
    assert "don't end" not in dispatcher.log()
    for client in clients:
        client.close()


def test_call_during_the_stop_is_refused_and_not_stored(dispatcher, daemon, wait_for):
    daemon.scripts["stuck"] = lambda *_: daemon.released.wait(60)
    dispatcher.call("stuck")
    wait_for_call(daemon, wait_for, "stuck")
    with dispatcher.connect() as client:
        client.ask(request("list_hosts", True))
        stopping = threading.Thread(target=dispatcher.stop)
        stopping.start()
        # The stop waits for the daemon, for cancel_grace.
        while "job_id" in (reply := client.ask(call_request("echo"))):
            pass
        assert reply["error"]["type"] == "shutdown"
        stopping.join()
    count = len(list(dispatcher.jobs.rglob("*.jsonl")))
    assert count == 1 + daemon.called("echo") + len(waiting_in(dispatcher))


def waiting_in(dispatcher):
    return list((dispatcher.jobs / "active").glob("*.jsonl"))


def test_stop_over_the_admin_socket(dispatcher, wait_for):
    assert dispatcher.admin("stop") == {"stopping": True, "pid": dispatcher.pid}
    wait_for(lambda: not dispatcher.is_running)
    assert dispatcher.stop() == 0
    assert not (dispatcher.directory / "control").exists()
    assert not (dispatcher.directory / "client").exists()


def test_interrupt_stops_as_well(dispatcher, wait_for):
    os.kill(dispatcher.pid, signal.SIGINT)
    wait_for(lambda: not dispatcher.is_running)
    assert dispatcher.stop() == 0


# --- starting -----------------------------------------------------------------------


def run_dispatcher(path):
    """Run it until it ends by itself; return its exit status and what it says."""
    ended = subprocess.run(
        [*HARPCALLERD, "-c", str(path)], capture_output=True, text=True, timeout=30
    )
    return ended.returncode, ended.stderr


def test_second_dispatcher_on_a_directory_is_refused(
    dispatcher, make_dispatcher, tmp_path
):
    second = make_dispatcher(tmp_path / "second", stream_directory=dispatcher.jobs)
    with pytest.raises(testing.ProgramError, match=f"process {dispatcher.pid}"):
        second.start()
    assert dispatcher.result(dispatcher.call()) == {"result": []}


def test_second_dispatcher_on_a_socket_is_refused(
    dispatcher, make_dispatcher, tmp_path
):
    second = make_dispatcher(
        tmp_path / "second", admin_socket=f"{dispatcher.directory}/control"
    )
    with pytest.raises(testing.ProgramError, match="another process listens there"):
        second.start()
    assert dispatcher.admin("status")["pid"] == dispatcher.pid


def test_socket_of_a_killed_dispatcher_is_replaced(dispatcher):
    restart(dispatcher)
    assert dispatcher.admin("status")["pid"] == dispatcher.pid
    with dispatcher.connect_unix() as client:
        assert "hosts" in client.ask(request("list_hosts", True))


def test_directory_of_a_later_layout_is_refused_and_not_touched(dispatcher):
    dispatcher.stop()
    (dispatcher.jobs / "format").write_text("99\n")
    job = dispatcher.jobs / "active" / f"{jobid.make()}.jsonl"
    job.write_text("what a later version writes\n")
    with pytest.raises(testing.ProgramError, match="layout '99'"):
        dispatcher.start()
    assert job.read_text() == "what a later version writes\n"


def test_file_that_can_not_be_read_is_a_storage_error_and_stops_nothing(
    dispatcher, daemon, wait_for
):
    dispatcher.call("wait", queue=QUEUE)
    wait_for_call(daemon, wait_for)
    bad = dispatcher.call("echo", queue=QUEUE)
    good = dispatcher.call("echo", 1, queue=QUEUE)
    dispatcher.kill()
    dispatcher.path(bad).write_bytes(b"\0" * 300)
    dispatcher.start()
    for operation in ("get_result", "get_status", "follow_stream", "read_stream"):
        reply = dispatcher.ask(request(operation, bad))
        assert reply["harpcaller"] == 1 and reply["error"]["type"] == "storage_error"
    assert dispatcher.cancel(bad) == {"cancelled": False}
    again = call_request("echo", queue=QUEUE, job_id=bad)
    assert dispatcher.ask(again)["error"]["type"] == "storage_error"
    assert dispatcher.result(good) == {"result": [1]}


@pytest.mark.parametrize("line", [b"", b'{"packet":7,"time":1,"data":0}\n', b"?\n"])
def test_line_in_place_of_an_end_is_not_shown_as_one(dispatcher, line):
    job_id = dispatcher.call("echo", "secret")
    assert "result" in dispatcher.result(job_id)
    path = dispatcher.done_path(job_id)
    *lines, _, trailer = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + line + trailer)
    for reply in (dispatcher.result(job_id), dispatcher.status(job_id)):
        assert reply["harpcaller"] == 1 and reply["error"]["type"] == "storage_error"


def test_damage_in_an_ended_job_is_a_storage_error(dispatcher):
    job_id = dispatcher.call("count", 500)
    dispatcher.result(job_id)
    path = dispatcher.done_path(job_id)
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[: middle - 500] + b"\n" * 1000 + whole[middle + 500 :])
    assert dispatcher.result(job_id) == {"result": 500}
    reply = dispatcher.ask(request("read_stream", job_id, since=250))
    assert reply["error"]["type"] == "storage_error"
    path.write_bytes(whole[:-10])
    assert dispatcher.result(job_id)["error"]["type"] == "storage_error"
    assert dispatcher.status(job_id)["error"]["type"] == "storage_error"
    assert dispatcher.ask(request("list_jobs", {}))["jobs"] == []


def test_file_that_somebody_removes_harms_no_other_job(dispatcher, daemon, wait_for):
    first = dispatcher.call("wait", queue=QUEUE)
    wait_for_call(daemon, wait_for)
    removed = dispatcher.call("echo", queue=QUEUE)
    later = dispatcher.call("echo", 1, queue=QUEUE)
    dispatcher.path(removed).unlink()
    dispatcher.cancel(first)
    assert dispatcher.result(later) == {"result": [1]}
    assert dispatcher.result(removed)["error"]["type"] == "invalid_jobid"
    assert f'file of a job is gone {{"job": "{removed}"' in dispatcher.log()


FAULTS = {
    "no such file": (None, "does not exist"),
    "not TOML": ("listen = [", "not TOML"),
    "unknown key": ("lisen = 5\n", "lisen: unknown key; do you mean listen?"),
    "wrong type": ("default_timeout = true\n", "default_timeout: must be"),
    "two faults": (
        "x = 1\n[limits]\nrunning = 0\n",
        "limits.running: must be at least 1",
    ),
    "TCP without a word": ('listen = ["127.0.0.1:0"]\n', "anonymous"),
    "no CA": ('[trust]\nca_file = "/nonexistent"\n', "/nonexistent: No such file"),
    "bad CA": ('[trust]\nca_file = "/etc/passwd"\n', "/etc/passwd"),
    "no known": ('[trust]\nknown_certs_file = "/nonexistent"\n', "/nonexistent"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_configuration_that_can_not_be_used_is_told_with_its_line(tmp_path, fault):
    text, expected = FAULTS[fault]
    path = tmp_path / "harpcaller.toml"
    if text is not None:
        path.write_text(
            text
            if fault == "not TOML"
            else f'stream_directory = "{tmp_path}/jobs"\n'
            f'admin_socket = "{tmp_path}/control"\n' + text
        )
    status, says = run_dispatcher(path)
    assert status == MISCONFIGURED
    assert expected in says and all(
        line.startswith("harpcallerd: ") for line in says.splitlines()
    )
    # At most the directory is made; nothing is taken up in it.
    assert not list(tmp_path.glob("jobs/*"))


@pytest.mark.parametrize("what", ["admin_socket", "stream_directory"])
def test_place_that_can_not_be_used_is_named(make_dispatcher, tmp_path, what):
    (tmp_path / "file").write_text("x")
    dispatcher = make_dispatcher(**{what: tmp_path / "file" / "x"})
    with pytest.raises(testing.ProgramError, match=f"{tmp_path}/file"):
        dispatcher.start()


# --- a full disk --------------------------------------------------------------------


class SmallDisk:
    """A file system of its own that can be filled."""

    def __init__(self, path):
        self.path = path
        self._ballast = path / "ballast"

    def fill(self):
        with open(self._ballast, "wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while file.write(b"\0" * 4096) == 4096:
                    pass

    def empty(self):
        self._ballast.unlink()


@pytest.fixture
def mount(tmp_path, request):
    """``mount(options)`` mounts a tmpfs with those options and returns where."""

    def start(options):
        if os.geteuid() != 0:
            pytest.skip("needs root, to mount a tmpfs")
        path = tmp_path / "small"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        mounted = subprocess.run(command, capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"can't mount a tmpfs: {mounted.stderr.strip()}")
        request.addfinalizer(lambda: subprocess.run(["umount", str(path)], check=True))
        return path

    return start


@pytest.fixture
def small_disk(mount):
    return SmallDisk(mount("size=4m"))


@pytest.fixture
def dispatcher_on(mount, make_dispatcher):
    """``dispatcher_on(path)`` starts one that keeps its jobs there. It ends before the
    file system does."""

    def start(path):
        dispatcher = make_dispatcher(
            stream_directory=path / "jobs",
            limits={"reserve": 4096, "cancel_grace": 2.0},
        )
        dispatcher.jobs = path / "jobs"
        dispatcher.start()
        return dispatcher

    return start


@pytest.fixture
def on_small_disk(small_disk, dispatcher_on):
    return dispatcher_on(small_disk.path)


def fill_page(dispatcher, procedure, **options):
    """Submit a call whose file leaves next to no room in its last block."""

    def submit(length):
        return dispatcher.call(procedure, "x" * length, **options)

    probe = submit(1)
    size = dispatcher.path(probe).stat().st_size
    dispatcher.cancel(probe)
    return submit(1 + 4096 - size - 8)


def test_full_disk_is_survived_and_all_works_again_when_there_is_room(
    on_small_disk, small_disk, daemon, wait_for, in_thread
):
    dispatcher = on_small_disk
    may_go, stream_ended = threading.Event(), threading.Event()

    def answer_large(connection, received):
        send(connection, ACKNOWLEDGED)
        may_go.wait(30)
        send(connection, {"result": "r" * 20_000})

    def stream_large(connection, received):
        send(connection, ACKNOWLEDGED_STREAM, {"stream": "first"})
        may_go.wait(30)
        for _ in range(5):
            send(connection, {"stream": "s" * 20_000})
        connection.read_to_end()
        stream_ended.set()

    daemon.scripts |= {"large": answer_large, "stream": stream_large}
    answering, streaming = dispatcher.call("large"), dispatcher.call("stream")
    holding = dispatcher.call("wait", queue=QUEUE)
    wait_for(lambda: len(daemon.requests) == 3)
    wait_for(lambda: dispatcher.status(streaming)["packets"] == 1)
    queued = fill_page(dispatcher, "echo", queue=QUEUE)
    small_disk.fill()

    reply = dispatcher.ask(call_request("echo"))
    assert set(reply) == {"harpcaller", "error"}
    assert reply["error"]["type"] == "storage_error"
    assert dispatcher.cancel(queued)["error"]["type"] == "storage_error"
    assert dispatcher.state(queued) == "queued"
    waiting = in_thread(dispatcher.result, answering)
    may_go.set()
    # What can't be stored is cancelled over there.
    assert stream_ended.wait(10)
    wait_for(lambda: "end of a job can't be stored" in dispatcher.log())
    assert dispatcher.cancel(answering)["error"]["type"] == "storage_error"
    assert dispatcher.result(answering, wait=False) == {"no_result": True}
    assert waiting.is_running
    with dispatcher.connect() as client:
        client.send(request("read_stream", streaming))
        packets, _ = client.stream()
        assert [one["data"] for one in packets] == ["first"]
    assert dispatcher.admin("status")["free"] == 0

    small_disk.empty()
    assert waiting.result() == {"result": "r" * 20_000}
    end = dispatcher.result(streaming)["error"]
    assert (end["type"], end["ran"]) == ("storage_error", "yes")
    assert dispatcher.cancel(queued) == {"cancelled": True}
    assert dispatcher.cancel(holding) == {"cancelled": True}
    assert dispatcher.result(dispatcher.call("echo", 1)) == {"result": [1]}
    assert "Traceback" not in dispatcher.log()


def test_start_on_a_full_disk_ends_what_was_cut_off_as_soon_as_there_is_room(
    on_small_disk, small_disk, daemon, wait_for
):
    dispatcher = on_small_disk
    probe = dispatcher.call("wait", "x" * 3000)
    wait_for_call(daemon, wait_for)
    dispatcher.cancel(probe)
    record, start, *_ = dispatcher.done_path(probe).read_bytes().splitlines(True)
    # With its start, this one leaves next to no room in its last block.
    room = 4096 - len(record) - len(start) - 30
    running = dispatcher.call("wait", "x" * (3000 + room))
    queued = dispatcher.call("wait", queue=QUEUE)
    last = dispatcher.call("echo", 5, queue=QUEUE)
    wait_for_call(daemon, wait_for, times=3)
    dispatcher.kill()
    small_disk.fill()
    dispatcher.start()
    assert dispatcher.state(running) == "running"
    assert dispatcher.result(running, wait=False) == {"no_result": True}
    assert dispatcher.cancel(running)["error"]["type"] == "storage_error"
    assert dispatcher.ask(call_request("echo"))["error"]["type"] == "storage_error"
    small_disk.empty()
    end = dispatcher.result(running)["error"]
    assert (end["type"], end["ran"]) == ("missing_result", "maybe")
    assert dispatcher.result(queued)["error"]["type"] == "missing_result"
    # It could not be started for want of room, or had not been tried yet.
    end = dispatcher.result(last)
    assert end == {"result": [5]} or end["error"]["ran"] == "no"


@pytest.fixture
def unstored_result(on_small_disk, small_disk, daemon, wait_for):
    """Id of a job whose result has come when there was no room for it."""
    may_go = threading.Event()

    def answer_large(connection, received):
        send(connection, ACKNOWLEDGED)
        may_go.wait(30)
        send(connection, {"result": "r" * 20_000})

    daemon.scripts["large"] = answer_large
    job_id = on_small_disk.call("large")
    wait_for_call(daemon, wait_for, "large")
    small_disk.fill()
    may_go.set()
    wait_for(lambda: "end of a job can't be stored" in on_small_disk.log())
    return job_id


def test_result_is_stored_if_there_is_room_before_the_stop_has_ended(
    on_small_disk, small_disk, unstored_result, wait_for
):
    os.kill(on_small_disk.pid, signal.SIGTERM)
    wait_for(lambda: "stopping" in on_small_disk.log())
    small_disk.empty()
    assert on_small_disk.stop() == 0
    on_small_disk.start()
    assert on_small_disk.result(unstored_result) == {"result": "r" * 20_000}


def test_stop_on_a_full_disk_is_held_up_for_a_limited_time_only(
    on_small_disk, small_disk, unstored_result
):
    assert on_small_disk.stop() == 0
    assert "end of a job is lost" in on_small_disk.log()
    small_disk.empty()
    on_small_disk.start()
    assert on_small_disk.result(unstored_result)["error"]["type"] == "missing_result"


def test_out_of_inodes_is_like_a_full_disk(mount, dispatcher_on):
    dispatcher = dispatcher_on(mount("size=4m,nr_inodes=20"))
    made = []
    while "job_id" in (reply := dispatcher.ask(call_request("echo"))):
        made.append(reply["job_id"])
    assert reply["error"]["type"] == "storage_error"
    assert len(made) < 20
    for job_id in made:
        assert dispatcher.result(job_id) == {"result": []}
    dispatcher.done_path(made[0]).unlink()
    assert dispatcher.result(dispatcher.call("echo", 1)) == {"result": [1]}


def test_client_that_is_slow_is_dropped_only_if_it_takes_nothing(
    make_dispatcher, daemon, wait_for
):
    daemon.scripts["large"] = lambda connection, _: send(
        connection, ACKNOWLEDGED, {"result": "x" * 8_000_000}
    )
    dispatcher = make_dispatcher(limits={"send_timeout": 1.0})
    dispatcher.start()
    job_id = dispatcher.call("large")
    dispatcher.result(job_id)
    with contextlib.ExitStack() as stack:
        slow, gone = (
            stack.enter_context(dispatcher.connect(receive_buffer=4096))
            for _ in range(2)
        )
        for client in (slow, gone):
            client.send(request("get_result", job_id))
        before = time.monotonic()
        received = 0
        while time.monotonic() - before < 4:
            received += len(slow.sock.recv(20_000))
            threading.Event().wait(0.05)
        # The one who takes nothing has been dropped, half-way.
        data = b""
        with contextlib.suppress(ConnectionError):
            while part := gone.sock.recv(1 << 20):
                data += part
        assert len(data) < 8_000_000
        assert dispatcher.result(job_id)["result"][:1] == "x"
        while received < 8_000_000:
            part = slow.sock.recv(1 << 20)
            assert part
            received += len(part)


def test_connection_beyond_the_limit_waits_for_another_to_end(make_dispatcher):
    dispatcher = make_dispatcher(limits={"connections": 3})
    dispatcher.start()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dispatcher.connect()) for _ in range(3)]
        for client in clients:
            assert "hosts" in client.ask(request("list_hosts", True))
        late = stack.enter_context(dispatcher.connect())
        late.send(request("list_hosts", True))
        late.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            late.sock.recv(1)
        clients[0].close()
        late.sock.settimeout(30)
        assert late.sock.recv(1) == b"{"
