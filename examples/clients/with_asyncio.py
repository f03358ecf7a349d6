"""Calls procedures from a program that uses asyncio: each wait in a thread.

    python3 with_asyncio.py web01

What takes no time (to submit a call, to ask for its status) does so, too: over a
network it may wait. A HarpCaller may be shared by all tasks.
"""

import asyncio
import sys

import harp


async def main(host):
    with harp.HarpCaller() as rpc:
        server = rpc.host(host)
        # Both at once, which takes as long as the longer one.
        await asyncio.gather(show_load(server), count(server))


async def show_load(server):
    job = await asyncio.to_thread(server.load)
    load = await asyncio.to_thread(job.get, timeout=60)
    print("load:", *load["load"])


async def count(server):
    job = await asyncio.to_thread(server.count_down, 3, 0.1)
    async for value in follow(job):
        print("value:", value)
    print("result:", await asyncio.to_thread(job.get, timeout=60))


async def follow(job, since=0):
    """Yield what a call streams. Leaving the iteration ends the thread's wait."""
    end = object()
    with await asyncio.to_thread(job.follow, since=since) as values:
        while (value := await asyncio.to_thread(next, values, end)) is not end:
            yield value


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        asyncio.run(main(sys.argv[1]))
    except harp.HarpException as error:
        sys.exit(str(error))
