"""The actions of harpcallerd on the hosts: list them, read them again, change their
file. No credentials are printed."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable

import harp
from harp import config, linefile, protocol, wire
from harp.dispatcher.hostlines import Host, is_remark, parse_host, parse_hosts
from harp.errors import Refusal, reason
from harp.protocol import hostadmin

from .. import listings, output, table
from .ask import ask
from .say import fail, say


def add_actions(add: Callable) -> None:
    """Add the actions of this module.

    :param add: called with name, function and text of an action, returns its parser
    """
    table.add_option(add("hosts-list", _list, "print the hosts that are known"))
    refresh = add(
        "hosts-refresh",
        _refresh,
        "read the hosts again, and print what that changes; one that would remove more "
        "than half of them is refused",
    )
    refresh.add_argument(
        "--force", action="store_true", help="even if it removes more than half of them"
    )
    refresh.add_argument(
        "--diff", action="store_true", help="print what it would change, do nothing"
    )
    table.add_option(refresh)
    table.add_option(
        add(
            "hosts-add",
            _add,
            "write lines from standard input into the file of hosts, in place of those "
            "for the same hosts; harpd setup prints such a line",
        )
    )
    remove = add("hosts-remove", _remove, "remove hosts from the file of hosts")
    remove.add_argument("hostnames", metavar="HOST", nargs="+")


def _list(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    hosts = protocol.parse_host_list(ask(settings, protocol.build_list_hosts()))
    listings.show_hosts(hosts, options.json)
    return 0


# --- hosts-refresh ------------------------------------------------------------------


def _refresh(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    reply = ask(settings, hostadmin.build_refresh_hosts(options.force, options.diff))
    refreshed = hostadmin.parse_refreshed(reply)
    if table.is_for_people(options.json):
        for text in _describe(refreshed):
            output.text(text)
    else:
        output.value(reply)
    return 0 if refreshed.fault is None else fail(refreshed.fault)


def _describe(refreshed: hostadmin.Refreshed) -> list[str]:
    marked = [
        *((name, "+") for name in refreshed.came),
        *((name, "-") for name in refreshed.went),
        *((name, "~") for name in refreshed.changed),
    ]
    lines = [f"{mark} {name}" for name, mark in sorted(marked)]
    counts = (
        f"{len(refreshed.came)} new (+), {len(refreshed.went)} gone (-), "
        f"{len(refreshed.changed)} changed (~)"
    )
    now = refreshed.found if refreshed.applied else refreshed.before
    lines.append(f"{now} hosts; {counts if marked else 'no change'}")
    if not refreshed.applied:
        lines.append("nothing was done")
    if refreshed.skipped:
        lines.append(f"{refreshed.skipped} lines are no hosts and are passed over")
    return lines


# --- the file -----------------------------------------------------------------------


def _add(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    if (refusal := _no_file(settings)) is not None:
        return fail(refusal)
    added, faults = _read_hosts()
    if faults:
        return fail(*faults, "nothing was changed")
    changes: list[dict] = []

    def put(lines: list[str]) -> list[str]:
        return _put(lines, added, changes)

    fault = _change(settings.hosts_file, put, create=True)
    if fault is not None:
        return fail(fault)
    columns = [*listings.HOST, table.Column("CHANGE", lambda row: row["change"])]
    table.show(changes, columns, options.json)
    return _let_it_read(settings)


def _read_hosts() -> tuple[dict[str, tuple[Host, str]], list[str]]:
    """Return the hosts on standard input, by name, each with its line; and what is
    wrong with them."""
    if output.is_terminal(sys.stdin):
        say("paste the lines, then Ctrl-D")
    given = b"" if sys.stdin is None else sys.stdin.buffer.read()
    lines = [line for line in given.split(b"\n") if not is_remark(line)]
    if not lines:
        return {}, ["no line on standard input"]
    if faults := parse_hosts(given).faults:
        return {}, [f"line {line}: {text}" for line, text in faults]
    hosts = list(map(_parsed, lines))
    counts = Counter(host.hostname for host, _ in hosts)
    twice = [f"{name!a} stands there twice" for name in counts if counts[name] > 1]
    return {host.hostname: (host, line) for host, line in hosts}, twice


def _remove(options: argparse.Namespace, settings: config.DispatcherConfig) -> int:
    if (refusal := _no_file(settings)) is not None:
        return fail(refusal)
    found: set[str] = set()

    def remove(lines: list[str]) -> list[str]:
        found.update(name for name in map(_hostname, lines) if name is not None)
        return [line for line in lines if _hostname(line) not in options.hostnames]

    fault = _change(settings.hosts_file, remove, create=False)
    if fault is not None:
        return fail(fault)
    status = _let_it_read(settings)
    for hostname in options.hostnames:
        if hostname not in found:
            status = fail(f"{settings.hosts_file}: no host {hostname!a}")
    return status


def _no_file(settings: config.DispatcherConfig) -> str | None:
    """Say why there is no file to change."""
    if settings.hosts_script is not None:
        return (
            f"the hosts come from the program {settings.hosts_script} (hosts.script), "
            "there is no file to change; have it print the line, then hosts-refresh"
        )
    if settings.hosts_file is None:
        return "the configuration names no file of hosts: set hosts.file"
    return None


def _parsed(line: bytes) -> tuple[Host, str]:
    return parse_host(line), line.decode().strip()


def _put(
    lines: list[str], added: dict[str, tuple[Host, str]], changes: list[dict]
) -> list[str]:
    """Return the lines of the file with others put in, each in the place of the first
    for its host, or at the end.

    :param changes: what is done is added to it
    """
    result = []
    placed: set[str] = set()
    for line in lines:
        hostname = _hostname(line)
        if hostname in placed:
            continue  # of several lines for a host the last counts: it is replaced
        if hostname in added:
            host, new = added.pop(hostname)
            placed.add(hostname)
            same = _counting_host(lines, hostname) == host
            changes.append(_change_of(host, "unchanged" if same else "replaced"))
            line = new
        result.append(line)
    for host, new in added.values():
        changes.append(_change_of(host, "added"))
        result.append(new)
    return result


def _counting_host(lines: list[str], hostname: str) -> Host | None:
    data = "\n".join(line for line in lines if _hostname(line) == hostname)
    hosts = parse_hosts(data.encode("utf-8", "surrogateescape")).hosts
    return hosts.get(hostname)


def _change_of(host: Host, change: str) -> dict:
    return protocol.build_host_entry(host.hostname, host.address, host.port) | {
        "change": change
    }


def _hostname(line: str) -> str | None:
    """Return the host that a line is about, as far as that can be told."""
    data = line.encode("utf-8", "surrogateescape")
    if is_remark(data):
        return None
    try:
        hostname = wire.decode(data).get("hostname")
    except Refusal:
        return None
    return hostname if isinstance(hostname, str) else None


def _change(path: str, change: Callable, create: bool) -> str | None:
    """Change the file; return what is wrong if it can't be done."""
    try:
        linefile.change_lines(path, change, create)
    except OSError as error:
        return f"{path}: can't be changed: {reason(error)}"
    return None


def _let_it_read(settings: config.DispatcherConfig) -> int:
    """Have the dispatcher read the file now, which it would do by itself in a moment,
    to tell what it thinks of it."""
    try:
        reply = ask(settings, hostadmin.build_refresh_hosts())
    except harp.CommunicationError:
        return 0  # it reads the file when it starts
    fault = hostadmin.parse_refreshed(reply).fault
    return 0 if fault is None else fail(fault)
