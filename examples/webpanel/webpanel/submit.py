"""The form that calls a procedure, on one host or on several."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, NamedTuple

import harp
from harp import jobid, protocol
from harp.calls import make_call
from harp.protocol.listed import ListedProcedure, parse_full_status
from harp.secret import split_arguments

from . import forms, hosts, inputs, jobs, page, queues
from .forms import Field, Typed
from .markup import Element, tag
from .web import HttpError, Request, Response, redirect

if TYPE_CHECKING:
    from .app import Panel

_FORM_SECONDS = 12 * 3600
"""For which a form that is sent again is the same call; the dispatcher keeps to that
for a day."""

_LIMITS = ("at_a_time", "concurrency", "timeout", "max_exec_time")


class Entered(NamedTuple):
    """What a form holds.

    :ivar nonce: of the form: sent twice, it is the same call
    :ivar typed: by field's name, what was typed
    :ivar hosts: those that were ticked
    :ivar rest: queue, limits and pattern of hosts, as texts
    :ivar faults: by the input's name
    """

    nonce: str
    typed: dict[str, Typed]
    hosts: list[str]
    rest: dict[str, str]
    faults: dict[str, str]


class Order(NamedTuple):
    """What a form asks for, on whatever hosts.

    :ivar nonce: of the form
    :ivar options: those of :meth:`harp.HarpCaller.hosts`
    """

    nonce: str
    procedure: str
    positional: tuple
    named: dict
    options: dict


def show(panel: Panel, request: Request) -> Response:
    host = request.need("host")
    procedure = _procedure(panel, host, request.need("procedure"))
    fields = forms.fields_of(procedure)
    typed = {field.name: forms.text_of(field, field.default) for field in fields}
    rest: dict[str, str] = {}
    earlier = request.get("like")
    if earlier is not None:
        status = parse_full_status(panel.rpc.job(earlier).status())
        typed |= _as_typed(fields, status)
        rest = _rest_of(status)
    entered = Entered(jobid.make(), typed, [host], rest, {})
    return _page(panel, request, host, procedure, entered, 200)


def _procedure(panel: Panel, host: str, name: str) -> ListedProcedure:
    for procedure in hosts.procedures_of(panel, host):
        if procedure.name == name:
            return procedure
    raise HttpError(
        404,
        f"{host} has no procedure {name}",
        "It is not there, or not for this dispatcher to call.",
    )


def _as_typed(fields: list[Field], status) -> dict[str, Typed]:
    """What one would type to make a call again. What is masked in it has to be typed
    anew, and stays a secret."""
    given, masked = status.arguments, set(status.secret)
    parts = _by_position if isinstance(given, list) else _by_name
    typed = {}
    for field, keys, value in parts(fields, given):
        if masked.intersection(keys):
            typed[field.name] = Typed("", forms.ANY, True)
        elif keys:
            typed[field.name] = forms.text_of(field, value)
    return typed


def _by_position(
    fields: list[Field], given: list
) -> Iterator[tuple[Field, Collection, object]]:
    """A call's arguments by field: the field, the positions of what it gets, and
    that."""
    for position, field in enumerate(fields):
        if field.takes == forms.LINES:
            yield field, range(position, len(given)), given[position:]
            return
        if position < len(given):
            yield field, [position], given[position]


def _by_name(
    fields: list[Field], given: dict
) -> Iterator[tuple[Field, Collection, object]]:
    """The same with names instead of positions."""
    names = {field.name for field in fields}
    others = {name: value for name, value in given.items() if name not in names}
    for field in fields:
        if field.takes == forms.OBJECT:
            yield field, others, others
        elif field.name in given:
            yield field, [field.name], given[field.name]


def _rest_of(status) -> dict[str, str]:
    rest = {
        "timeout": str(status.timeout or ""),
        "max_exec_time": str(status.max_exec_time or ""),
    }
    if status.queue is not None:
        rest["queue"] = protocol.canonical(status.queue.name)
        rest["concurrency"] = str(status.queue.concurrency or "")
    return rest


# --- the page ------------------------------------------------------------------------


def _page(
    panel: Panel,
    request: Request,
    host: str,
    procedure: ListedProcedure,
    entered: Entered,
    status: int,
) -> Response:
    known = [known.name for known in hosts.known_hosts(panel)]
    where = tag.a(host, href=request.url("/host", name=host))
    shape = tag.code(procedure.name + hosts.signature(procedure))
    fields = forms.fields_of(procedure)
    return panel.page(
        request,
        f"{procedure.name} on {host}",
        tag.p(shape, " on ", where),
        procedure.doc and tag.pre(procedure.doc.strip(), class_="doc"),
        _fault_list(entered),
        page.form(
            request,
            "/call",
            tag.input(type="hidden", name="on", value=host),
            tag.input(type="hidden", name="procedure", value=procedure.name),
            tag.input(type="hidden", name="form", value=entered.nonce),
            fields
            and tag.fieldset(
                tag.legend("Arguments"),
                [inputs.argument(field, entered) for field in fields],
            ),
            _where(known, host, entered),
            _limits(entered),
            tag.p(tag.button("Call", class_="main")),
            class_="call",
            novalidate=True,
        ),
        status=status,
    )


def _fault_list(entered: Entered) -> Element | None:
    if not entered.faults:
        return None
    items = [
        tag.li(
            tag.a(name.removeprefix("arg."), href=f"#{inputs.identity(name)}"),
            f": {text}",
        )
        for name, text in entered.faults.items()
    ]
    text = tag.p("Nothing was called:")
    return page.notice(text, tag.ul(items), kind="fault")


def _where(known: list[str], host: str, entered: Entered) -> Element:
    # One that isn't known any more can be told apart, and taken out.
    names = [*known, *(name for name in entered.hosts if name not in known)]
    boxes = [
        tag.label(
            tag.input(
                type="checkbox", name="host", value=name, checked=name in entered.hosts
            ),
            " ",
            name,
        )
        for name in names
    ]
    is_open = entered.hosts != [host] or bool(
        {"hosts", "pattern", "at_a_time"} & entered.faults.keys()
        or entered.rest.get("pattern")
    )
    return tag.details(
        tag.summary("On other hosts, too"),
        tag.fieldset(
            tag.legend("Hosts"),
            tag.div(boxes, class_="boxes", id=inputs.identity("hosts")),
        ),
        inputs.line("pattern", "And by name", entered, "such as web* db-1"),
        inputs.line(
            "at_a_time", "So many at a time", entered, "empty: all at once", number=True
        ),
        open=is_open,
    )


def _limits(entered: Entered) -> Element:
    names = ("queue", "concurrency", "timeout", "max_exec_time")
    is_open = any(entered.rest.get(name) or name in entered.faults for name in names)
    return tag.details(
        tag.summary("Queue and limits"),
        inputs.line(
            "queue",
            "Queue",
            entered,
            'a word, or a JSON object like {"of": "web01"}; empty: it starts at once',
        ),
        inputs.line(
            "concurrency",
            "Jobs of that queue at a time",
            entered,
            "counts for the first in it; empty: 1",
            number=True,
        ),
        inputs.line(
            "timeout",
            "Timeout",
            entered,
            "seconds between two messages; empty: as configured",
            number=True,
        ),
        inputs.line(
            "max_exec_time",
            "Longest run",
            entered,
            "seconds altogether; empty: as configured",
            number=True,
        ),
        open=is_open,
    )


# --- what was sent -------------------------------------------------------------------


def submit(panel: Panel, request: Request) -> Response:
    host = request.field("on")
    procedure = _procedure(panel, host, request.field("procedure"))
    fields = forms.fields_of(procedure)
    entered = _entered(request, fields)
    positional, named, faults = forms.arguments(fields, entered.typed)
    entered.faults.update({f"arg.{name}": text for name, text in faults.items()})
    names = _chosen(panel, entered)
    options = _options(entered, len(names))
    if entered.faults:
        return _page(panel, request, host, procedure, entered, 400)
    options["on_behalf_of"] = request.user
    order = Order(entered.nonce, procedure.name, positional, named, options)
    if len(names) == 1:
        return redirect(request.url(f"/jobs/{_submit_one(panel, order, names[0])}"))
    return _submit_many(panel, request, order, names)


def _entered(request: Request, fields: list[Field]) -> Entered:
    typed = {}
    for field in fields:
        text = request.form.get(f"arg.{field.name}", [""])[-1]
        mode = request.field(f"mode.{field.name}")
        typed[field.name] = Typed(
            text.replace("\r\n", "\n"),
            mode if mode in forms.MODES else forms.ANY,
            bool(request.field(f"secret.{field.name}")),
        )
    rest = {name: request.field(name) for name in ("queue", "pattern", *_LIMITS)}
    nonce = request.field("form")
    return Entered(nonce, typed, request.form.get("host", []), rest, {})


def _chosen(panel: Panel, entered: Entered) -> list[str]:
    names = list(entered.hosts)
    if entered.rest["pattern"]:
        found = [
            known.name
            for known in hosts.known_hosts(panel)
            if hosts.matches(known.name, entered.rest["pattern"])
        ]
        if not found:
            entered.faults["pattern"] = "there is no such host"
        names += found
    elif not names:
        entered.faults["hosts"] = "none is ticked"
    return list(dict.fromkeys(names))


def _options(entered: Entered, count: int) -> dict:
    """Return queue and limits; what is wrong with them goes to the faults."""
    options: dict = {}
    for name in _LIMITS:
        text = entered.rest[name]
        options[name] = None
        if not text:
            continue
        if text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0:
            options[name] = int(text)
        else:
            entered.faults[name] = "must be a whole number above 0"
    options["queue"] = _queue(entered)
    if options["concurrency"] is not None and options["queue"] is None:
        entered.faults["concurrency"] = "is a queue's: name one"
    if options["at_a_time"] is not None and count > 1 and options["queue"] is not None:
        entered.faults["at_a_time"] = "makes a queue of its own: leave the other empty"
    return options


def _queue(entered: Entered) -> dict | None:
    text = entered.rest["queue"]
    if not text:
        return None
    if not text.startswith("{"):
        return {"name": text}
    name = queues.name_of(text)
    if name is None:
        entered.faults["queue"] = (
            'must be a word or a JSON object, like {"of": "web01"}'
        )
    return name


def _submit_one(panel: Panel, order: Order, host: str) -> str:
    """Submit a call and return its id."""
    arguments, secret = split_arguments(order.positional, order.named)
    options = {**order.options, "info": None, "group": None}
    call = make_call(host, order.procedure, arguments, secret, options)
    key = protocol.build_call(call._replace(job_id=None))
    call = call._replace(job_id=_same_id(order.nonce, key))
    try:
        reply = panel.rpc.request(protocol.build_call(call), hosts.REPLY_SECONDS)
    except (harp.ConnectionLost, harp.ReplyTimeout) as error:
        raise harp.SubmissionLost(f"{error}, for {call.job_id}", call.job_id) from None
    return protocol.parse_job_id(reply)


def _submit_many(
    panel: Panel, request: Request, order: Order, names: list[str]
) -> Response:
    given = split_arguments(order.positional, order.named)
    group_id = _same_id(order.nonce, [names, order.procedure, given, order.options])
    location = request.url("/group", id=group_id)
    sent, _ = jobs.listed(panel, {"group": group_id}, 1)
    if sent:
        return redirect(location)  # the form was sent before
    servers = panel.rpc.hosts(names, group=group_id, **order.options)
    group = servers[order.procedure](*order.positional, **order.named)
    if not group.not_submitted:
        return redirect(location)
    rows = [(host, str(error)) for host, error in group.not_submitted.items()]
    return panel.page(
        request,
        f"Called on {len(names) - len(rows)} of {len(names)} hosts",
        tag.p(tag.a("Those that were called", href=location)),
        tag.h2("Not called"),
        page.table("Not called", ("Host", "Reason"), rows),
        status=502,
    )


def _same_id(nonce: str, key: object) -> str:
    """Return an id that is the same whenever this form is sent with the same content,
    so that nothing is called twice by one who presses twice."""
    if (
        not jobid.is_valid(nonce)
        or not 0 <= time.time() - jobid.time_of(nonce) <= _FORM_SECONDS
    ):
        nonce = jobid.make()
    text = (nonce + protocol.canonical(key)).encode()
    digest = hashlib.blake2b(text, digest_size=16).hexdigest()
    return f"{nonce[:15]}{digest[:3]}-{nonce[19]}{digest[3:6]}-{digest[6:18]}"
