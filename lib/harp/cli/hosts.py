"""The commands that look at hosts: which there are, whether they answer, and what may
be called there."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import harp
from harp import protocol
from harp.address import Address
from harp.errors import Refusal
from harp.protocol import listed

from . import hostnames, listings, output, table
from . import options as cli_options

_AT_A_TIME = 16
_SOON = 14 * 86400  # s; a certificate that expires in less is worth being told


def add_hosts(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_hosts)
    cli_options.add_formats(parser)


def add_ping(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_ping)
    parser.add_argument(
        "hosts",
        metavar="HOST",
        nargs="+",
        help="names, with commas or blanks between; 'web*' stands for all like that",
    )
    cli_options.add_formats(parser)


def add_procedures(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_procedures)
    parser.add_argument("host", metavar="HOST")
    parser.add_argument(
        "procedure", metavar="PROCEDURE", nargs="?", help="print its own help"
    )
    cli_options.add_formats(parser)


COMMANDS = {"hosts": add_hosts, "ping": add_ping, "procedures": add_procedures}


def _hosts(options: argparse.Namespace) -> int:
    with cli_options.caller(options) as caller:
        reply = caller.request(protocol.build_list_hosts(), cli_options.REPLY_SECONDS)
    listings.show(options, protocol.parse_host_list(reply), listings.show_hosts)
    return 0


# --- ping ----------------------------------------------------------------------------


def _ping(options: argparse.Namespace) -> int:
    with cli_options.caller(options) as caller:
        names = hostnames.find_hosts(caller, ",".join(options.hosts))
        failed: list[Exception] = []
        rows = _rows(_ask_all(caller, names), failed)
        if not table.is_for_people(options.json or options.jsonl):
            listings.show(options, rows, lambda rows, _: table.show(rows, _PING, True))
        else:
            order = {name: number for number, name in enumerate(names)}
            found = sorted(rows, key=lambda row: order[row["host"]])
            table.show(found, _PING, False)
            for row in found:
                if row["problem"] is not None:
                    output.text(f"{row['host']}: {row['problem']}")
    if failed and len(names) == 1:
        return output.status_of(failed[0])
    return output.SOME_FAILED if failed else 0


def _ask_all(
    caller: harp.HarpCaller, names: list[str]
) -> Iterator[tuple[str, protocol.Reached | Exception, float]]:
    """Ask hosts, some at a time. Iterates over the name, what was found or why it
    wasn't, and the seconds that it took us, as they answer."""
    import queue
    import threading

    to_ask: queue.SimpleQueue = queue.SimpleQueue()
    found: queue.SimpleQueue = queue.SimpleQueue()
    for name in names:
        to_ask.put(name)

    def work() -> None:
        while True:
            try:
                name = to_ask.get_nowait()
            except queue.Empty:
                return
            begin = time.monotonic()
            try:
                answer = _ask(caller, name)
            except Exception as error:  # or it would be waited for, for ever
                answer = error
            found.put((name, answer, time.monotonic() - begin))

    # Nobody waits for them who leaves before they are done.
    for _ in range(min(_AT_A_TIME, len(names))):
        threading.Thread(target=work, daemon=True, name="ping").start()
    for _ in names:
        yield found.get()


def _ask(caller: harp.HarpCaller, name: str) -> protocol.Reached | Exception:
    request = protocol.build_list_host_procedures(name)
    try:
        reply = caller.request(request, cli_options.REPLY_SECONDS)
        return protocol.parse_reached(reply)
    except harp.HarpException as error:
        return error
    except Refusal as fault:
        return harp.CommunicationError(f"reply is not the protocol: {fault.message}")


def _rows(answers: Iterator, failed: list[Exception]) -> Iterator[dict]:
    """Make what ``--json`` prints of each answer.

    :param failed: errors are added to it
    """
    for name, answer, seconds in answers:
        if isinstance(answer, Exception) and not _is_about_one(answer):
            raise answer
        if isinstance(answer, Exception):
            failed.append(answer)
            reached = protocol.Reached(*(None,) * len(protocol.Reached._fields))
            problem = str(answer)
        else:
            reached = answer
            problem = _about_certificate(reached.cert_expires)
        is_good = not isinstance(answer, Exception)
        kind = getattr(answer, "type", None if is_good else "unreachable")
        yield {
            "host": name,
            "ok": is_good,
            **reached._asdict(),
            "seconds": seconds if reached.seconds is None else reached.seconds,
            "error": kind,
            "problem": problem,
        }


def _is_about_one(error: Exception) -> bool:
    """Tell whether an error is about one host: without a dispatcher, none can be
    asked."""
    return isinstance(error, harp.HarpException) and not isinstance(
        error, harp.ConnectFailed
    )


def _about_certificate(expires: object) -> str | None:
    if not isinstance(expires, (int, float)):
        return None
    left = expires - time.time()
    if left < 0:
        return f"its certificate has expired, {table.span(-left)} ago"
    if left < _SOON:
        return f"its certificate expires in {table.span(left)}"
    return None


def _authentication(row: dict) -> str | None:
    if row["ok"]:
        return "ok"
    return "refused" if row["error"] == harp.errors.AUTH_ERROR else None


def _address(row: dict) -> str | None:
    if row["address"] is None:
        return None
    return str(Address(str(row["address"]), row["port"]))


_PING = [
    table.Column("HOST", lambda row: row["host"]),
    table.Column("ANSWER", lambda row: "ok" if row["ok"] else row["error"], whole=True),
    table.Column("MS", lambda row: round(row["seconds"] * 1000)),
    table.Column("ADDRESS", _address),
    table.Column("AUTH", _authentication),
    table.Column("EXPIRES", lambda row: (table.moment(row["cert_expires"]) or "")[:10]),
    table.Column("VERSION", lambda row: row["version"]),
    table.Column("DIGEST", lambda row: row["digest"] and str(row["digest"])[:12]),
    table.Column("CERTIFICATE", lambda row: row["cert_sha256"]),
]


# --- procedures ----------------------------------------------------------------------


def _procedures(options: argparse.Namespace) -> int:
    with cli_options.caller(options) as caller:
        found = caller.procedures(options.host)
    if options.procedure is None:
        listings.show(options, found, _show)
        return 0
    for message in found:
        entry = listed.parse_procedure(message)
        if entry.name == options.procedure:
            if table.is_for_people(options.json or options.jsonl):
                _help(entry)
            else:
                output.value(message)
            return 0
    text = f"{options.host} has no procedure {options.procedure!a} that we may call"
    return output.fail(output.NOT_CARRIED_OUT, text)


def _show(messages, as_json: bool) -> None:
    table.show(messages, _PROCEDURES, as_json, listed.parse_procedure)


def _help(entry: listed.ListedProcedure) -> None:
    output.text(f"{entry.name}{_signature(entry)}")
    for line in (entry.doc or "").splitlines():
        output.text(f"    {line}" if line.strip() else "")
    table.show_fields(
        [
            ("streams", "yes" if entry.streaming else "no"),
            ("timeout", table.span(entry.timeout)),
            ("at a time", entry.concurrency),
        ]
    )


def _signature(entry: listed.ListedProcedure) -> str:
    """Return the parameters as they stand in Python."""
    words = []
    kinds = [parameter.kind for parameter in entry.parameters]
    for number, parameter in enumerate(entry.parameters):
        is_named = parameter.kind == listed.KEYWORD_ONLY
        before = kinds[:number]
        if is_named and not {listed.KEYWORD_ONLY, listed.VAR_POSITIONAL} & {*before}:
            words.append("*")
        words.append(_parameter(parameter))
        if parameter.kind == listed.POSITIONAL_ONLY and (
            parameter.kind not in kinds[number + 1 :]
        ):
            words.append("/")
    return f"({', '.join(words)})"


def _parameter(parameter: listed.Parameter) -> str:
    stars = {listed.VAR_POSITIONAL: "*", listed.VAR_KEYWORD: "**"}
    text = stars.get(parameter.kind, "") + parameter.name
    if parameter.annotation is not None:
        text += f": {parameter.annotation}"
    if parameter.default is not None:
        gap = "" if parameter.annotation is None else " "
        text += f"{gap}={gap}{parameter.default}"
    return text


_PROCEDURES = [
    table.Column("PROCEDURE", lambda entry: entry.name, whole=True),
    table.Column("PARAMETERS", _signature),
    table.Column("STREAMS", lambda entry: "yes" if entry.streaming else None),
    table.Column("", lambda entry: next(iter((entry.doc or "").splitlines()), None)),
]
