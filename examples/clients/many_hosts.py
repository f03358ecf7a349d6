"""Calls a procedure on many hosts, a few at a time, and tells each as it ends.

    python3 many_hosts.py web01,web02,web03 uptime

Stops when more than MAX_FAILURES have failed. Calls that certainly had no effect,
because the host could not be reached for one, are made once more at the end.
"""

import sys

import harp

AT_A_TIME = 2
MAX_FAILURES = 5
PATIENCE = 600  # seconds for all


def main():
    hosts, procedure, *arguments = sys.argv[1:]
    with harp.HarpCaller() as rpc:
        servers = rpc.hosts(hosts.split(","), at_a_time=AT_A_TIME)
        try:
            group = servers[procedure](*arguments)
            results = tell(group)
            if any(may_be_repeated(result) for result in results.values()):
                print("once more:")
                results.update(tell(group.run_again()))
        except harp.HarpException as error:
            sys.exit(str(error))
    failed = [host for host, result in results.items() if is_failure(result)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def tell(group):
    """Print how each call ends, when it does; return all of it by host."""
    print(f"group {group.id()}")
    for job in group.as_ended(timeout=PATIENCE, max_failures=MAX_FAILURES):
        print(f"{job.host()}: {job.result()}", flush=True)
    for host, error in group.not_submitted.items():
        print(f"{host}: not submitted: {error}")
    return group.results(wait=False)


def is_failure(result):
    return isinstance(result, harp.HarpException) or result is harp.CALL_CANCELLED


def may_be_repeated(result):
    return isinstance(result, harp.RemoteError) and result.ran == "no"


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main()
