"""100,000 small packets: followed live by one follower, from the call's start to its
end, as bytes off the socket and through the library, and read afterwards, both ways.
The floor: the same call straight to harpd, its lines as bytes off the socket."""

import sys
import time

from bulk import receive
from figures import Client, report, request, servers

_ROUNDS = 3
_PACKETS = 100_000
_READS = 3  # in a round, one after the other


def main():
    kinds = {
        "follow live, bytes": (follow_bytes, "30,000/s"),
        "follow live, library": (follow_library, ""),
        "read afterwards, bytes": (read_bytes, "300,000/s"),
        "read afterwards, library": (read_library, "100,000/s"),
    }
    ours = {name: [] for name in kinds}
    floors = []
    with servers() as both:
        ended = both.caller().host(both.hostname).count(_PACKETS)
        ended.get()
        for _ in range(_ROUNDS):
            floors.append(rate(call_directly, both, None))
            for name, (measure, _) in kinds.items():
                ours[name].append(rate(measure, both, ended))
    for name, (_, wanted) in kinds.items():
        report(
            f"streams, {name}",
            "packets/s",
            ours[name],
            floors,
            "direct call, bytes",
            wanted,
        )


def rate(measure, both, ended):
    start = time.perf_counter()
    number = measure(both, ended)
    seconds = time.perf_counter() - start
    return number / seconds


def call_directly(both, _):
    size = 0
    for data in receive(both, "count", _PACKETS):
        size += data.count(b"\n")
    return checked(size - 2)  # the acknowledgement and the result are lines as well


def follow_bytes(both, _):
    with Client(both) as client:
        job_id = client.submit(both, "count", _PACKETS)
        return checked(read(client, request(follow_stream=job_id, since=0)))


def read_bytes(both, ended):
    with Client(both) as client:
        line = request(read_stream=ended.id())
        return sum(checked(read(client, line)) for _ in range(_READS))


def read(client, line):
    """Ask for a stream and return the number of its packets."""
    client.sock.sendall(line)
    number = 0
    end = b""
    while not end.endswith(b'{"result":null}\n'):
        data = client.sock.recv(1 << 18)
        if not data:
            sys.exit(f"the stream has no end: {end!r}")
        number += data.count(b"\n")
        end = (end + data)[-100:]
    return number - 1


def follow_library(both, _):
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
