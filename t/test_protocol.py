"""Every message of both protocols: doc/protocol.rst."""

import pytest

from harp import protocol, wire
from harp.errors import INVALID_PROTOCOL, INVALID_REQUEST, Refusal
from harp.protocol import Call, DaemonCall, End, Queue, admin

ID = "01930000-0000-7000-8000-000000000000"


def on_the_wire(message: dict) -> dict:
    return wire.decode(wire.encode(message)[:-1])


# --- requests to the dispatcher -----------------------------------------------------

LEAST = Call("web01", "run", [])
CALLS = [
    LEAST,
    Call("", "", {}),
    Call("web01", "run", [1, "x", None, {"a": []}], timeout=1, max_exec_time=10**9),
    Call("web01", "run", {"a": 1}, queue=Queue({}, 1), info=[1, None]),
    Call("web01", "run", [], queue=Queue({"a": 1.0, "b": [True]}, 10**9), info=False),
    Call("web01", "run", [], job_id=ID, group="deploy", on_behalf_of="somebody"),
    Call("web01", "run", ["password"], secret=(0,)),
    Call("web01", "run", {"password": "x", "token": "y"}, secret=("password", "token")),
    Call("ä\udcff", "€", {"": "𝄞"}, group=""),
]


@pytest.mark.parametrize("call", CALLS)
def test_call_that_is_built_is_parsed_as_the_same(call):
    assert protocol.parse_request(on_the_wire(protocol.build_call(call))) == call


def test_plain_call_holds_the_keys_of_version_1_only():
    assert protocol.build_call(LEAST) == {
        "harpcaller": 1,
        "host": "web01",
        "procedure": "run",
        "arguments": [],
    }


REQUESTS = [
    (protocol.build_cancel(ID), {"cancel": ID}, protocol.Cancel(ID)),
    (
        protocol.build_get_result(ID, True),
        {"get_result": ID, "wait": True},
        protocol.GetResult(ID, True),
    ),
    (
        protocol.build_get_result(ID, False),
        {"get_result": ID, "wait": False},
        protocol.GetResult(ID, False),
    ),
    (protocol.build_get_status(ID), {"get_status": ID}, protocol.GetStatus(ID)),
    (
        protocol.build_cancel(ID, "alice"),
        {"cancel": ID, "on_behalf_of": "alice"},
        protocol.Cancel(ID, "alice"),
    ),
    (
        protocol.build_follow_stream(ID),
        {"follow_stream": ID},
        protocol.FollowStream(ID, None, 0),
    ),
    (
        protocol.build_follow_stream(ID, since=0),
        {"follow_stream": ID, "since": 0},
        protocol.FollowStream(ID, 0, None),
    ),
    (
        protocol.build_follow_stream(ID, recent=5),
        {"follow_stream": ID, "recent": 5},
        protocol.FollowStream(ID, None, 5),
    ),
    (
        protocol.build_read_stream(ID),
        {"read_stream": ID},
        protocol.ReadStream(ID, 0, None, None),
    ),
    (
        protocol.build_read_stream(ID, since=7, limit=1),
        {"read_stream": ID, "since": 7, "limit": 1},
        protocol.ReadStream(ID, 7, None, 1),
    ),
    (
        protocol.build_read_stream(ID, recent=0),
        {"read_stream": ID, "recent": 0},
        protocol.ReadStream(ID, None, 0, None),
    ),
    (protocol.build_list_jobs(), {"list_jobs": {}}, protocol.ListJobs({})),
    (
        protocol.build_list_jobs(from_=1, to=2.5, host="web01", state=None, limit=1000),
        {"list_jobs": {"from": 1, "to": 2.5, "host": "web01", "limit": 1000}},
        protocol.ListJobs({"from": 1, "to": 2.5, "host": "web01", "limit": 1000}),
    ),
    (protocol.build_list_queues(), {"list_queues": True}, protocol.ListQueues()),
    (protocol.build_list_queues({"q": 1}), {"list_queues": {"after": {"q": 1}}},
     protocol.ListQueues({"q": 1})),
    (protocol.build_list_hosts(), {"list_hosts": True}, protocol.ListHosts()),
]


@pytest.mark.parametrize(("built", "text", "parsed"), REQUESTS)
def test_request_that_is_built_is_parsed_as_what_it_asks(built, text, parsed):
    assert built == {"harpcaller": 1} | text
    request = protocol.parse_request(on_the_wire(built))
    assert (type(request), request) == (type(parsed), parsed)
    assert protocol.parse_request(on_the_wire(built), admin.ADMIN_PARSERS) == parsed


@pytest.mark.parametrize(
    ("built", "parsed"),
    [
        (admin.build_get_dispatcher_status(), admin.GetDispatcherStatus()),
        (admin.build_stop(), admin.Stop(False, None)),
    ],
)
def test_administration_is_asked_for_on_the_admin_socket_only(built, parsed):
    request = protocol.parse_request(built, admin.ADMIN_PARSERS)
    assert (type(request), request) == (type(parsed), parsed)
    with pytest.raises(Refusal) as caught:
        protocol.parse_request(built)
    assert caught.value.type == INVALID_REQUEST


def test_request_says_who_sends_it_or_does_not():
    request = protocol.with_auth(protocol.build_cancel(ID), "panel", "sesame")
    auth = protocol.parse_auth(on_the_wire(request))
    assert auth == protocol.Auth("panel", "sesame") and "sesame" not in repr(auth)
    assert protocol.parse_auth(protocol.build_cancel(ID)) is None


@pytest.mark.parametrize(
    "auth", [None, "panel", {}, {"user": "panel"}, {"user": "panel", "password": 5}]
)
def test_half_of_who_sends_a_request_is_refused(auth):
    with pytest.raises(Refusal) as caught:
        protocol.parse_auth({"harpcaller": 1, "auth": auth})
    assert caught.value.type == INVALID_REQUEST


def test_waiting_is_the_default_of_get_result():
    request = protocol.parse_request({"harpcaller": 1, "get_result": ID})
    assert request == protocol.GetResult(ID, True)


def test_concurrency_of_a_queue_is_one_unless_asked_for():
    request = CALL | {"queue": {"name": {"a": 1}}}
    assert protocol.parse_request(request).queue == Queue({"a": 1}, 1)


@pytest.mark.parametrize("job_id", [None, 5, "../../etc/passwd", "", [], {}, True])
@pytest.mark.parametrize(
    "operation", ["cancel", "get_result", "get_status", "follow_stream", "read_stream"]
)
def test_what_is_no_job_id_is_no_fault_of_structure(operation, job_id):
    request = protocol.parse_request({"harpcaller": 1, operation: job_id})
    assert request.job_id == job_id


CALL = {"harpcaller": 1, "host": "web01", "procedure": "run", "arguments": []}


@pytest.mark.parametrize("key", ["unknown", "status", "stop", "", "harp", "auth"])
@pytest.mark.parametrize("request_", [CALL] + [built for built, _, _ in REQUESTS])
def test_unknown_key_is_ignored(request_, key):
    expected = protocol.parse_request(request_)
    assert protocol.parse_request(request_ | {key: {"any": "thing"}}) == expected


@pytest.mark.parametrize("version", [None, 2, 0, "1", 1.0, True, [1], {}])
@pytest.mark.parametrize("key", ["harpcaller", "harp"])
def test_other_version_is_an_invalid_protocol(key, version):
    parse = {
        "harpcaller": protocol.parse_request,
        "harp": protocol.parse_daemon_call,
    }[key]
    request = (CALL if key == "harpcaller" else DAEMON_CALL) | {key: version}
    if version is None:
        del request[key]
    with pytest.raises(Refusal) as caught:
        parse(request)
    assert caught.value.type == INVALID_PROTOCOL
    assert f'"{key}"' in caught.value.message
    assert not caught.value.closes


def without(message: dict, key: str) -> dict:
    return {name: value for name, value in message.items() if name != key}


def asks(**request) -> dict:
    return {"harpcaller": 1, **request}


FAULTY = [
    # (request, the word by which its refusal names the fault)
    ({"harpcaller": 1}, "no operation"),
    (asks(unknown=ID), "no operation"),
    (asks(cancel=ID, get_status=ID), "cancel, get_status"),
    (CALL | {"get_result": ID}, "get_result, call"),
    (asks(host="web01", cancel=ID), "cancel, call"),
    *[(without(CALL, key), f'"{key}" is missing')
      for key in ("host", "procedure", "arguments")],
    *[(CALL | {key: value}, f'"{key}" must be a string')
      for key in ("host", "procedure", "group", "on_behalf_of")
      for value in (None, 1, True, [], {})],
    *[(CALL | {"arguments": value}, '"arguments" must be an array or an object')
      for value in (None, 1, "x", False)],
    *[(CALL | {key: value}, f'"{key}" must be')
      for key in ("timeout", "max_exec_time")
      for value in (None, 0, -1, 1.5, 1.0, True, "1", 10**9 + 1, 10**100)],
    *[(CALL | {"queue": value}, '"queue" must be an object')
      for value in (None, 1, "x", [], True)],
    (CALL | {"queue": {}}, '"queue.name" is missing'),
    (CALL | {"queue": {"concurrency": 1}}, '"queue.name" is missing'),
    *[(CALL | {"queue": {"name": value}}, '"queue.name" must be an object')
      for value in (None, "x", 1, [])],
    *[(CALL | {"queue": {"name": {}, "concurrency": value}}, '"queue.concurrency" must')
      for value in (None, 0, -1, 1.0, True, "2", 10**9 + 1)],
    *[(CALL | {"secret": value}, '"secret"')
      for value in (None, "password", {}, [None], [-1], [1.0], [True], [["a"]])],
    *[(asks(get_result=ID, wait=value), '"wait" must be true or false')
      for value in (None, 0, 1, "true", [])],
    *[(asks(**{operation: ID, key: value}), f'"{key}" must')
      for operation in ("follow_stream", "read_stream")
      for key in ("since", "recent")
      for value in (None, -1, 1.0, True, "1", [])],
    *[(asks(**{operation: ID, "since": 0, "recent": 0}), '"since" and "recent"')
      for operation in ("follow_stream", "read_stream")],
    *[(asks(read_stream=ID, limit=value), '"limit" must')
      for value in (None, 0, -1, 1.0, True, "1")],
    *[(asks(**{operation: value}), f'"{operation}" must be true')
      for operation in ("list_queues", "list_hosts")
      for value in (None, False, 1, "x", [])],
    (asks(list_hosts={}), '"list_hosts" must be true'),
    *[(asks(list_queues={"after": value}), '"list_queues.after" must be an object')
      for value in (None, True, 1, "x", [])],
    (asks(list_queues={}), '"list_queues.after" is missing'),
    *[(asks(list_jobs=value), '"list_jobs" must be an object')
      for value in (None, True, 1, "x", [])],
    (asks(list_jobs={"unknown": 1}), "no filter 'unknown'"),
    (asks(list_jobs={"x" * 10_000: 1}), "no filter"),
    *[(asks(list_jobs={key: value}), f'"list_jobs.{key}" must be a string')
      for key in ("host", "procedure", "state", "outcome", "group", "submitted_by",
                  "before")
      for value in (None, 1, [], True)],
    (asks(list_jobs={"state": "ended"}), '"state" must be one of queued'),
    (asks(list_jobs={"outcome": "ok"}), '"outcome" must be one of result'),
    (asks(list_jobs={"queue": "x"}), '"list_jobs.queue" must be an object'),
    (asks(list_jobs={"ids": "x"}), '"list_jobs.ids" must be an array'),
    (asks(list_jobs={"from": "x"}), '"list_jobs.from" must be a number'),
    (asks(list_jobs={"to": True}), '"list_jobs.to" must be a number'),
    *[(asks(list_jobs={"limit": value}), '"list_jobs.limit" must')
      for value in (None, 0, -1, 1001, 1.0, True, "1")],
]  # fmt: skip


@pytest.mark.parametrize(("request_", "fault"), FAULTY)
def test_fault_of_structure_is_an_invalid_request_that_names_it(request_, fault):
    with pytest.raises(Refusal) as caught:
        protocol.parse_request(request_)
    assert caught.value.type == INVALID_REQUEST
    assert fault in caught.value.message
    assert len(caught.value.message) < 300
    assert not caught.value.closes


# --- replies of the dispatcher ------------------------------------------------------


def test_replies_hold_what_the_protocol_says():
    assert protocol.build_job_id(ID) == {"harpcaller": 1, "job_id": ID}
    assert protocol.build_cancelled(True) == {"cancelled": True}
    assert protocol.build_cancelled(False) == {"cancelled": False}
    assert protocol.build_no_result() == {"no_result": True}
    assert protocol.build_continue() == {"continue": True}
    assert protocol.build_packet(3, 1.5, None) == {
        "packet": 3,
        "time": 1.5,
        "data": None,
    }
    assert protocol.build_refusal("parse_error", "why") == {
        "harpcaller": 1,
        "error": {"type": "parse_error", "message": "why"},
    }


ERROR_OBJECT = {"type": "timeout", "message": "why"}
ENDS = [
    (End("result", None), {"result": None}),
    (End("result", {"error": 1}), {"result": {"error": 1}}),
    (End("exception", ERROR_OBJECT), {"exception": ERROR_OBJECT}),
    (
        End("exception", ERROR_OBJECT | {"data": []}),
        {"exception": ERROR_OBJECT | {"data": []}},
    ),
    (End("cancelled", True), {"cancelled": True}),
    (
        protocol.error_end("timeout", "why", "maybe"),
        {"error": ERROR_OBJECT | {"ran": "maybe"}},
    ),
    (
        protocol.error_end("timeout", "why", "no", {"a": 1}),
        {"error": ERROR_OBJECT | {"data": {"a": 1}, "ran": "no"}},
    ),
]


@pytest.mark.parametrize(("end", "message"), ENDS)
def test_end_that_is_built_is_parsed_as_the_same(end, message):
    assert protocol.build_end(end) == message
    received = on_the_wire(message)
    assert protocol.parse_end(received) == end
    assert protocol.parse_reply_end(received) == end
    assert protocol.parse_result_reply(received) == end
    assert protocol.parse_stream_reply(received) == end
    assert protocol.refusal_of(received) is None


def test_error_end_can_be_told_later_whether_it_ran():
    end = protocol.error_end("timeout", "why", "no")
    assert protocol.with_ran(end, "yes").value["ran"] == "yes"
    assert end.value["ran"] == "no"


def test_replies_that_are_no_end_are_parsed_as_what_they_are():
    assert protocol.parse_job_id(protocol.build_job_id(ID)) == ID
    assert protocol.parse_cancelled(protocol.build_cancelled(False)) is False
    assert protocol.parse_result_reply(protocol.build_no_result()) is None
    assert protocol.parse_stream_reply(protocol.build_continue()) is None
    packet = protocol.parse_stream_reply(protocol.build_packet(7, 1.5, {"a": 1}))
    assert packet == protocol.Packet(7, {"a": 1}, packet.time)
    assert protocol.parse_stream_reply({"packet": 0, "data": None}).data is None
    assert protocol.parse_end(protocol.build_packet(7, 1.5, 1)) is None


def test_refusal_is_told_from_an_end():
    refusal = protocol.build_refusal("storage_error", "disk full")
    assert protocol.refusal_of(refusal) == refusal["error"]
    end = protocol.build_end(protocol.error_end("storage_error", "disk full", "yes"))
    assert protocol.refusal_of(end) is None


STATUS = protocol.build_status(
    job_id=ID,
    call=CALLS[3]._replace(group="deploy"),
    submit=10.9,
    start=None,
    end=None,
    state="queued",
    outcome=None,
    packets=0,
    timeout=600,
    max_exec_time=86400,
    submitted_by=None,
)

REPLY_FAULTS = [
    (protocol.parse_job_id, [{}, {"job_id": 5}, {"job_id": None}]),
    (protocol.parse_cancelled, [{}, {"cancelled": 1}, {"cancelled": None}]),
    (
        protocol.parse_reply_end,
        [{}, {"unknown": 1}, {"cancelled": False}, {"cancelled": 1}]
        + [
            {key: value}
            for key in ("exception", "error")
            for value in (None, "x", [], {}, {"type": "x"}, {"message": "x"})
            + ({"type": 1, "message": "x"}, {"type": "x", "message": None})
        ],
    ),
    (protocol.parse_result_reply, [{}, {"no_result": False}, {"no_result": 1}]),
    (
        protocol.parse_stream_reply,
        [{}, {"continue": 1}, {"packet": 0}, {"data": 0}]
        + [{"packet": value, "data": 0} for value in (None, -1, 1.0, True, "1")],
    ),
    (
        protocol.parse_status,
        [
            {},
            without(STATUS, "call"),
            without(STATUS, "time"),
            STATUS | {"call": []},
            STATUS | {"time": 5},
            *(STATUS | {"call": without(STATUS["call"], key)}
              for key in ("host", "procedure", "arguments")),
            *(STATUS | {"time": STATUS["time"] | {key: value}}
              for key in ("submit", "start", "end") for value in ("1", 1.5, True)),
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("parse", "message"),
    [(parse, message) for parse, messages in REPLY_FAULTS for message in messages],
)
def test_reply_that_is_not_the_protocol_is_refused(parse, message):
    with pytest.raises(Refusal) as caught:
        parse(message)
    assert caught.value.type == INVALID_REQUEST


@pytest.mark.parametrize("value", [10**400, -(10**400), "1", True, [1]])
def test_number_of_a_reply_that_nobody_can_reckon_with_is_refused(value):
    good = protocol.parse_reached({"seconds": 0.5, "cert_expires": 2**1000})
    assert good.cert_expires == 2**1000
    with pytest.raises(Refusal, match="cert_expires"):
        protocol.parse_reached({"seconds": 0.5, "cert_expires": value})


def test_status_is_whole():
    assert on_the_wire(STATUS) == {
        "call": {"host": "web01", "procedure": "run", "arguments": {"a": 1}},
        "time": {"submit": 10, "start": None, "end": None},
        "info": [1, None],
        "job_id": ID,
        "queue": {"name": {}, "concurrency": 1},
        "state": "queued",
        "outcome": None,
        "packets": 0,
        "timeout": 600,
        "max_exec_time": 86400,
        "group": "deploy",
        "submitted_by": None,
        "on_behalf_of": None,
    }
    assert protocol.parse_status(STATUS) == protocol.Status(
        "web01", "run", {"a": 1}, 10, None, None, [1, None]
    )


def test_status_of_version_1_is_enough():
    status = {key: STATUS[key] for key in ("call", "time", "info")}
    status["time"] = {"submit": 1, "start": 2, "end": 3}
    assert protocol.parse_status(status)[3:6] == (1, 2, 3)


LONG = "x" * 5000


@pytest.mark.parametrize(
    ("arguments", "listed"),
    [
        ([], []),
        (["x" * 100, 5], ["x" * 100, 5]),
        ({"a": "x" * 900}, {"a": "x" * 900}),
        ([LONG, 5, "y"], ["x" * 100 + "…", 5, "y"]),
        ({"a": LONG, "b": [1]}, {"a": "x" * 100 + "…", "b": [1]}),
        ([[7] * 1000], ["[" + "7," * 49 + "7…"]),
        ([5] * 1000, [5] * 10),
        ({f"{n:03}": n for n in range(1000)}, {f"{n:03}": n for n in range(10)}),
    ],
)
def test_long_arguments_are_cut_and_marked_in_listings(arguments, listed):
    status = STATUS | {"call": STATUS["call"] | {"arguments": arguments}}
    shown = protocol.cut_arguments(status)
    assert shown["call"].get("cut", False) is (listed != arguments)
    assert status["call"]["arguments"] == arguments
    cut = shown["call"]["arguments"]
    if isinstance(listed, list) and len(arguments) == 1 and listed != arguments:
        assert len(cut[0]) == 101 and listed[0].startswith(cut[0][:99])
    else:
        assert cut == listed


QUEUE_NAMES = [{}, {"a": 1}, {"a": 1.0}, {"a": True}, {"a": "1"}, {"a": None}]
QUEUE_NAMES += [{"b": 1}, {"a": 1, "b": 1}, {"a": {"b": 1}}, {"a": [1]}, {"A": 1}]


def test_names_are_the_same_if_their_canonical_texts_are():
    texts = [protocol.canonical(name) for name in QUEUE_NAMES]
    assert len(set(texts)) == len(texts)
    assert protocol.canonical({"b": 1, "a": {"d": 2, "c": "ä"}}) == protocol.canonical(
        wire.decode(b'{ "a": {"c": "\\u00e4", "d": 2}, "b": 1 }')
    )


# --- the daemon's protocol ----------------------------------------------------------

DAEMON_CALL = {
    "harp": 1,
    "procedure": "run",
    "arguments": [],
    "auth": {"user": "web", "password": "secret"},
}


@pytest.mark.parametrize(
    "call",
    [
        DaemonCall("run", [], "web", "secret", None),
        DaemonCall("run", {"a": 1}, "", "", ID),
        DaemonCall("ä", [1], "ü", "\udcff", "any string"),
    ],
)
def test_daemon_call_that_is_built_is_parsed_as_the_same(call):
    built = protocol.build_daemon_call(call)
    assert protocol.parse_daemon_call(on_the_wire(built)) == call


def test_plain_daemon_call_holds_the_keys_of_version_1_only():
    call = DaemonCall("run", [], "web", "secret", None)
    assert protocol.build_daemon_call(call) == DAEMON_CALL
    assert protocol.parse_daemon_call(DAEMON_CALL | {"unknown": 1}) == call


DAEMON_FAULTS = [
    *[(without(DAEMON_CALL, key), f'"{key}" is missing')
      for key in ("procedure", "arguments", "auth")],
    *[(DAEMON_CALL | {"procedure": value}, '"procedure" must be a string')
      for value in (None, 1, [], True)],
    *[(DAEMON_CALL | {"arguments": value}, '"arguments" must be an array or an object')
      for value in (None, 1, "x", True)],
    *[(DAEMON_CALL | {"auth": value}, '"auth" must be an object')
      for value in (None, 1, "x", ["web", "secret"])],
    *[(DAEMON_CALL | {"auth": without(DAEMON_CALL["auth"], key)},
       f'"auth.{key}" is missing') for key in ("user", "password")],
    *[(DAEMON_CALL | {"auth": DAEMON_CALL["auth"] | {key: value}},
       f'"auth.{key}" must be a string')
      for key in ("user", "password") for value in (None, 1, [], True)],
    *[(DAEMON_CALL | {"job_id": value}, '"job_id" must be a string')
      for value in (None, 1, [], True)],
]  # fmt: skip


@pytest.mark.parametrize(("request_", "fault"), DAEMON_FAULTS)
def test_fault_of_a_daemon_call_is_an_invalid_request_that_names_it(request_, fault):
    with pytest.raises(Refusal) as caught:
        protocol.parse_daemon_call(request_)
    assert caught.value.type == INVALID_REQUEST
    assert fault in caught.value.message
    assert "secret" not in caught.value.message


DAEMON_MESSAGES = [
    (
        protocol.build_acknowledgement(True),
        {"harp": 1, "stream_result": True},
        protocol.Acknowledgement(True),
    ),
    (
        protocol.build_acknowledgement(False),
        {"harp": 1, "stream_result": False},
        protocol.Acknowledgement(False),
    ),
    (protocol.build_stream(None), {"stream": None}, protocol.StreamValue(None)),
    (protocol.build_stream([1]), {"stream": [1]}, protocol.StreamValue([1])),
    (protocol.build_result(None), {"result": None}, End("result", None)),
    (
        protocol.build_exception("ValueError", "why"),
        {"exception": {"type": "ValueError", "message": "why"}},
        End("exception", {"type": "ValueError", "message": "why"}),
    ),
    (
        protocol.build_exception("ValueError", "", {"class": "x"}),
        {"exception": {"type": "ValueError", "message": "", "data": {"class": "x"}}},
        End("exception", {"type": "ValueError", "message": "", "data": {"class": "x"}}),
    ),
    (
        protocol.build_daemon_error("timeout", "why"),
        {"harp": 1, "error": ERROR_OBJECT},
        End("error", ERROR_OBJECT),
    ),
    (
        protocol.build_daemon_error("process_died", "why", {"signal": 9}),
        {"harp": 1, "error": {"type": "process_died", "message": "why"}
         | {"data": {"signal": 9}}},
        End("error", {"type": "process_died", "message": "why", "data": {"signal": 9}}),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("built", "text", "parsed"), DAEMON_MESSAGES)
def test_daemon_message_that_is_built_is_parsed_as_what_it_says(built, text, parsed):
    assert built == text
    message = protocol.parse_daemon_message(on_the_wire(built))
    assert (type(message), message) == (type(parsed), parsed)


@pytest.mark.parametrize(("built", "_text", "parsed"), DAEMON_MESSAGES)
def test_daemon_line_is_known_by_its_beginning(built, _text, parsed):
    beginning = wire.encode(built)[: protocol.MAX_PREFIX]
    outcome = parsed.outcome if isinstance(parsed, End) else None
    assert protocol.daemon_end(beginning) == outcome
    assert beginning.startswith(protocol.STREAM_PREFIX) is ("stream" in built)
    assert wire.encode(built).startswith(protocol.ACKNOWLEDGEMENT_PREFIX) is (
        "stream_result" in built
    )


@pytest.mark.parametrize("value", ["result", {"result": 1}, '{"result":', {"error": 1}])
def test_value_that_looks_like_an_end_is_none(value):
    line = wire.encode(protocol.build_stream(value))
    assert protocol.daemon_end(line) is None
    assert line.startswith(protocol.STREAM_PREFIX)


def test_packet_line_is_known_by_its_beginning():
    line = wire.encode(protocol.build_packet(0, 1.5, None))
    assert line.startswith(protocol.PACKET_PREFIX)


@pytest.mark.parametrize(
    "data", [{}, {"ran": "no"}, {"data": None, "ran": "yes", "more": 1}]
)
def test_what_a_daemon_says_beyond_the_protocol_is_dropped(data):
    message = {"harp": 1, "error": ERROR_OBJECT | data}
    end = protocol.parse_daemon_message(message)
    assert end.value.keys() - {"data"} == {"type", "message"}


@pytest.mark.parametrize(
    ("message", "type"),
    [
        ({}, INVALID_PROTOCOL),
        ({"unknown": 1}, INVALID_PROTOCOL),
        ({"harp": 2, "stream_result": True}, INVALID_PROTOCOL),
        ({"harp": True, "stream_result": True}, INVALID_PROTOCOL),
        ({"stream_result": True}, INVALID_PROTOCOL),
        ({"error": ERROR_OBJECT}, INVALID_PROTOCOL),
        ({"harp": 1}, INVALID_REQUEST),
        ({"harp": 1, "stream_result": 1}, INVALID_REQUEST),
        ({"harp": 1, "stream_result": None}, INVALID_REQUEST),
        ({"harp": 1, "error": None}, INVALID_REQUEST),
        ({"harp": 1, "error": {"type": "x"}}, INVALID_REQUEST),
        ({"harp": 1, "error": {"type": 1, "message": "x"}}, INVALID_REQUEST),
        ({"exception": "x"}, INVALID_REQUEST),
        ({"exception": {"message": "x"}}, INVALID_REQUEST),
        ({"exception": {"type": "x", "message": 1}}, INVALID_REQUEST),
    ],
)
def test_daemon_message_that_is_none_is_refused(message, type):
    with pytest.raises(Refusal) as caught:
        protocol.parse_daemon_message(message)
    assert caught.value.type == type
