"""Calls a procedure and cancels it if it isn't done in so many seconds.

    python3 cancel_when_late.py 5 web01 count_down 60

When cancel() returns, the call's processes on the host are gone. A limit that shall
hold although this program ends is the dispatcher's: host(..., max_exec_time=5).
"""

import json
import sys

import harp


def main():
    seconds, host, procedure, *arguments = sys.argv[1:]
    with harp.HarpCaller() as rpc:
        job = rpc.host(host)[procedure](*map(json.loads, arguments))
        result = job.result(timeout=float(seconds))
        if result is harp.CALL_NOT_FINISHED:
            # False: it has ended meanwhile, so there is a result after all.
            if job.cancel():
                print(f"cancelled after {seconds} s")
                print(f"it had streamed {len(job.stream().all())} values")
                return
            result = job.result()
    if isinstance(result, harp.HarpException):
        sys.exit(str(result))
    print(json.dumps(result))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    try:
        main()
    except harp.HarpException as error:
        sys.exit(str(error))
