"""The dispatcher's resident memory: idle, with 100,000 jobs queued, with 1,000
running, with 1,000 followers of one of them."""

import contextlib
import json
import multiprocessing
import resource
import socket
import ssl
import sys
import time

from figures import Client, call, queue, report, request, resident, servers, submitted
from start import make_queued

_QUEUED = 100_000
_SUBMITTED = 5000
_RUNNING = 1000
_FOLLOWERS = 1000


def main():
    measure_queued()
    measure_running()


def measure_queued():
    with servers() as both:
        with Client(both.dispatcher_address) as client:
            idle = resident(both.dispatcher.pid)
            report("memory, idle", "MB", [idle])
            client.submit(both, "sleep", 3600, queue=queue(0))
            for _ in range(0, _SUBMITTED, 1000):
                lines = [call(both, "noop", queue=queue(0)) for _ in range(1000)]
                for reply in client.ask_all(lines):
                    submitted(reply)
            each = (resident(both.dispatcher.pid) - idle) * 1000 / _SUBMITTED
            report(f"memory, each of {_SUBMITTED:,} submitted", "kB", [each])
        make_queued(both, _QUEUED)
        both.start_dispatcher()
        found = resident(both.dispatcher.pid)
        report(f"memory, {_QUEUED:,} queued", "MB", [found], wanted="below 150 MB")


def measure_running():
    """With a daemon that streams a value and nothing more: a thousand processes are not
    what is measured."""
    with servers() as both, silent_daemon(both.certificate) as port:
        both.write_hosts([{**both.host_entry(), "port": port}])
        both.dispatcher.stop()
        both.start_dispatcher()
        with Client(both.dispatcher_address) as client:
            before = resident(both.dispatcher.pid)
            lines = [call(both, "noop") for _ in range(_RUNNING)]
            job_ids = list(map(submitted, client.ask_all(lines)))
            for job_id in job_ids:
                wait_for_packet(client, job_id)
            found = resident(both.dispatcher.pid)
            each_follower = measure_followers(both, job_ids[0], found)
        both.dispatcher.kill()
        report(f"memory, {_RUNNING:,} running", "MB", [found], wanted="below 200 MB")
        each = (found - before) * 1000 / _RUNNING
        report("memory, each running job", "kB", [each])
        report(f"memory, each of {_FOLLOWERS:,} followers", "kB", [each_follower])


def measure_followers(both, job_id, before):
    with contextlib.ExitStack() as stack:
        for _ in range(_FOLLOWERS):
            follower = stack.enter_context(Client(both.dispatcher_address))
            follower.ask(request(follow_stream=job_id, since=0))
        return (resident(both.dispatcher.pid) - before) * 1000 / _FOLLOWERS


def wait_for_packet(client, job_id):
    while True:
        status = json.loads(client.ask(request(get_status=job_id)))
        if status["packets"]:
            return
        if status["state"] == "done":
            sys.exit(f"ended: {status}")
        time.sleep(0.01)


@contextlib.contextmanager
def silent_daemon(certificate):
    """Yield its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=_RUNNING)
    process = multiprocessing.get_context("fork").Process(
        target=serve, args=(listener, certificate), daemon=True
    )
    process.start()
    with listener:
        yield listener.getsockname()[1]
    process.kill()
    process.join()


def serve(listener, certificate):
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * _RUNNING, 2 * _RUNNING))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    context.load_cert_chain(certificate.certificate, certificate.key)
    open_ones = []
    while True:
        sock, _ = listener.accept()
        sock = context.wrap_socket(sock, server_side=True)
        sock.recv(65536)
        sock.sendall(b'{"harp":1,"stream_result":true}\n{"stream":0}\n')
        open_ones.append(sock)


if __name__ == "__main__":
    main()
