"""100,000 small packets: followed live by one follower, from the call's start to its
end, as bytes off the socket and through the library; and read afterwards, both ways.
The floors: the same call straight to harpd, its lines as bytes off the socket; and
reading the job's file. Then 10,000 packets followed live by 100 at a time, and packets
of 64 KB."""

import selectors
import sys
import time

from bulk import receive
from figures import Client, report, request, servers

_ROUNDS = 3
_PACKETS = 100_000
_READS = 3  # in a round, one after the other
_FOLLOWERS = 100
_SHARED_PACKETS = 10_000
_LARGE_PACKETS = 1000
_LARGE = 64 * 1024
_END = b'{"result":null}\n'


def main():
    with servers() as both:
        measure_live(both)
        measure_afterwards(both)
        measure_followers(both)
        measure_large(both)


def measure_live(both):
    kinds = {"bytes": (follow_bytes, "30,000/s"), "library": (follow_library, "")}
    ours = {name: [] for name in kinds}
    floors = []
    for _ in range(_ROUNDS):
        floors.append(rate(call_directly, both))
        for name, (measure, _) in kinds.items():
            ours[name].append(rate(measure, both))
    for name, (_, wanted) in kinds.items():
        report(
            f"streams, follow live, {name}",
            "packets/s",
            ours[name],
            floors,
            "direct call, bytes",
            wanted,
        )


def measure_afterwards(both):
    ended = both.caller().host(both.hostname).count(_PACKETS)
    ended.get()
    kinds = {"bytes": (read_bytes, "300,000/s"), "library": (read_library, "100,000/s")}
    ours = {name: [] for name in kinds}
    floors = []
    for _ in range(_ROUNDS):
        floors.append(rate(read_file, both, ended))
        for name, (measure, _) in kinds.items():
            ours[name].append(rate(measure, both, ended))
    for name, (_, wanted) in kinds.items():
        report(
            f"streams, read afterwards, {name}",
            "packets/s",
            ours[name],
            floors,
            "reading the file",
            wanted,
        )


def measure_followers(both):
    one, many = [], []
    for _ in range(_ROUNDS):
        one.append(follow_together(both, 1))
        many.append(follow_together(both, _FOLLOWERS))
    report(
        f"streams, follow live by {_FOLLOWERS}, all together",
        "packets/s",
        many,
        one,
        "by one",
    )


def measure_large(both):
    ours, floors = [], []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        size = sum(map(len, receive(both, "blobs", _LARGE_PACKETS, _LARGE)))
        floors.append(size / (time.perf_counter() - start) / 1e6)
        start = time.perf_counter()
        with Client(both.dispatcher_address) as client:
            job_id = client.submit(both, "blobs", _LARGE_PACKETS, _LARGE)
            size = sum(map(len, stream(client, request(follow_stream=job_id, since=0))))
        ours.append(size / (time.perf_counter() - start) / 1e6)
    report(
        "streams, follow live, 64 KB packets", "MB/s", ours, floors, "direct call, bytes"
    )


def rate(measure, *arguments):
    start = time.perf_counter()
    number = measure(*arguments)
    return number / (time.perf_counter() - start)


def call_directly(both):
    lines = sum(data.count(b"\n") for data in receive(both, "count", _PACKETS))
    return checked(lines - 2)  # the acknowledgement and the result are lines as well


def follow_bytes(both):
    with Client(both.dispatcher_address) as client:
        job_id = client.submit(both, "count", _PACKETS)
        return checked(count(client, request(follow_stream=job_id, since=0)))


def read_bytes(both, ended):
    with Client(both.dispatcher_address) as client:
        line = request(read_stream=ended.id())
        return sum(checked(count(client, line)) for _ in range(_READS))


def read_file(both, ended):
    [path] = (both.directory / "jobs" / "done").glob(f"*/{ended.id()}.jsonl")
    for _ in range(_READS):
        with open(path, "rb") as file:
            while file.read(1 << 18):
                pass
    return _READS * _PACKETS


def count(client, line):
    """Ask for a stream and return the number of its packets."""
    return sum(data.count(b"\n") for data in stream(client, line)) - 1


def stream(client, line):
    """Ask for a stream and yield what comes."""
    client.sock.sendall(line)
    end = b""
    while not end.endswith(_END):
        data = client.sock.recv(1 << 18)
        if not data:
            sys.exit(f"the stream has no end: {end!r}")
        end = (end + data)[-100:]
        yield data


def follow_together(both, followers):
    """Return the rate of packets that all followers of one job get together. One thread
    for all of them: it is the dispatcher that is measured."""
    clients = [Client(both.dispatcher_address) for _ in range(followers)]
    start = time.perf_counter()
    job_id = clients[0].submit(both, "count", _SHARED_PACKETS)
    packets = 0
    ends = dict.fromkeys(clients, b"")
    with selectors.DefaultSelector() as selector:
        for client in clients:
            client.sock.sendall(request(follow_stream=job_id, since=0))
            selector.register(client.sock, selectors.EVENT_READ, client)
        while ends:
            for key, _ in selector.select():
                data = key.fileobj.recv(1 << 18)
                packets += data.count(b"\n")
                ends[key.data] = (ends[key.data] + data)[-100:]
                if ends[key.data].endswith(_END) or not data:
                    selector.unregister(key.fileobj)
                    del ends[key.data]
    seconds = time.perf_counter() - start
    for client in clients:
        client.close()
    if packets != followers * (_SHARED_PACKETS + 1):
        sys.exit(f"{packets} packets for {followers} followers")
    return packets / seconds


def follow_library(both):
    call = both.caller().host(both.hostname).count(_PACKETS)
    return checked(sum(1 for _ in call.follow(since=0)))


def read_library(both, ended):
    return sum(checked(sum(1 for _ in ended.stream())) for _ in range(_READS))


def checked(number):
    if number != _PACKETS:
        sys.exit(f"{number} packets instead of {_PACKETS}")
    return number


if __name__ == "__main__":
    main()
