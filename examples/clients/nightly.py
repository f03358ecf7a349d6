"""Calls a procedure on many hosts once a day, from cron or a systemd timer.

    17 3 * * *  deploy  python3 /srv/nightly.py web01,web02 disk_usage

Prints nothing when all went well, so that cron sends no mail. Started again on the same
day, by hand or because the machine was off, it calls nothing twice: the day's group has
a name, by which the dispatcher finds what was submitted; the hosts that are missing are
called, and the rest is waited for.
"""

import datetime
import sys

import harp

AT_A_TIME = 5
PATIENCE = 3600  # seconds; what isn't done then goes on, and counts as a failure


def main():
    names, procedure, *arguments = sys.argv[1:]
    day = datetime.date.today().isoformat()
    group_name = f"nightly {procedure} {day}"
    queue = {"nightly": procedure}  # yesterday's that still run count, too
    failed = {}
    # A dispatcher that is being restarted is waited for.
    with harp.HarpCaller(retry_for=120) as rpc:
        there = rpc.group(group_name).calls()
        missing = [name for name in names.split(",") if name not in there]
        if missing:
            options = {"queue": queue, "concurrency": AT_A_TIME, "group": group_name}
            group = rpc.hosts(missing, **options)[procedure](*arguments)
            failed.update(group.not_submitted)
        results = rpc.group(group_name).results(timeout=PATIENCE)
    for host, result in results.items():
        if is_failure(result):
            failed[host] = result
    for host, reason in failed.items():
        print(f"{host}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def is_failure(result):
    if result is harp.CALL_CANCELLED or result is harp.CALL_NOT_FINISHED:
        return True
    return isinstance(result, harp.HarpException)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        sys.exit(main())
    except harp.HarpException as error:
        sys.exit(str(error))
