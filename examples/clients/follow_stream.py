"""Follows what a call streams, from any place in it, until it ends.

    python3 follow_stream.py JOB [NUMBER]

NUMBER is that of the first value wanted, 0 unless given. After Ctrl-C the call goes on,
and the command that follows it further is printed. A connection that breaks and a
dispatcher that is started anew are not noticed here: the library goes on at the right
value.
"""

import json
import sys

import harp


def main():
    job_id = sys.argv[1]
    next_number = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with harp.HarpCaller() as rpc:
        job = rpc.job(job_id)
        try:
            with job.follow(since=next_number, numbered=True) as values:
                for number, value in values:
                    print(json.dumps(value, ensure_ascii=False), flush=True)
                    next_number = number + 1
            result = job.get()
        except KeyboardInterrupt:
            sys.exit(f"to go on: {sys.argv[0]} {job_id} {next_number}")
        except harp.HarpException as error:
            sys.exit(f"after {next_number} values: {error}")
    print(f"result: {json.dumps(result, ensure_ascii=False)}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main()
