"""Many hosts: calls that belong together."""

import json

import harp
import pytest
from harp import CALL_CANCELLED, CALL_NOT_FINISHED, testing

from conftest import PROCEDURES

HOSTS = [f"web{n:02}" for n in range(12)]


@pytest.fixture(scope="module")
def many_servers(tmp_path_factory):
    """A dispatcher that knows harpd by many names."""
    directory = tmp_path_factory.mktemp("many")
    with testing.Servers(PROCEDURES, directory, hosts=HOSTS) as servers:
        yield servers


@pytest.fixture
def rpc(many_servers):
    with many_servers.caller() as rpc:
        yield rpc


@pytest.fixture
def name(tmp_path):
    """The name of a group that is this test's alone."""
    return f"of {tmp_path.name}"


def test_call_on_many_hosts_returns_their_results(rpc):
    group = rpc.hosts(HOSTS).add(1, 2)
    assert group.results(timeout=30) == dict.fromkeys(HOSTS, 3)
    assert list(group.calls()) == HOSTS
    assert group.not_submitted == {}


def test_group_is_found_again_by_its_name(rpc, name):
    group = rpc.hosts(HOSTS[:3]).add(1, 2)
    again = rpc.group(group.id())
    assert again.results(timeout=30) == dict.fromkeys(HOSTS[:3], 3)
    assert again.calls() == group.calls()
    named = rpc.hosts(HOSTS[:2], group=name).add(1, 2)
    assert named.id() == name
    assert list(rpc.group(name).calls()) == HOSTS[:2]
    assert rpc.group("no such group").results() == {}


def test_calls_come_as_they_end(rpc, tmp_path, name):
    slow = tmp_path / "slow"
    rpc.host(HOSTS[0], group=name).count_then_wait(1, str(slow))
    fast = rpc.host(HOSTS[1], group=name).count(1)
    ended = rpc.group(name).as_ended(timeout=30)
    assert next(ended) == fast
    slow.touch()
    assert next(ended).host() == HOSTS[0]
    assert list(ended) == []


def test_group_that_goes_on_for_too_long_is_left(rpc, tmp_path):
    group = rpc.hosts(HOSTS[:2]).count_then_wait(1, str(tmp_path / "never"))
    with pytest.raises(harp.ReplyTimeout, match="2 calls go on"):
        list(group.as_ended(timeout=0.1))
    assert set(group.results(wait=False).values()) == {CALL_NOT_FINISHED}
    assert set(group.results(timeout=0.1).values()) == {CALL_NOT_FINISHED}
    assert group.cancel() == 2
    assert group.cancel() == 0
    assert set(group.results(timeout=30).values()) == {CALL_CANCELLED}


def test_at_a_time_is_a_queue_of_the_group(rpc, tmp_path):
    group = rpc.hosts(HOSTS, at_a_time=2).count_then_wait(1, str(tmp_path / "go"))
    (queue,) = [q for q in rpc.queues() if q["name"] == {"group": group.id()}]
    assert queue["concurrency"] == 2
    assert queue["running"] + queue["waiting"] == len(HOSTS)
    assert queue["running"] <= 2
    (tmp_path / "go").touch()
    assert group.results(timeout=30) == dict.fromkeys(HOSTS, 1)


def test_cancelling_a_group_lets_no_waiting_call_start(rpc, tmp_path, wait_for):
    runs = tmp_path / "runs"
    servers = rpc.hosts(HOSTS, at_a_time=1)
    group = servers.append_and_wait(str(runs), "x", str(tmp_path / "never"))
    wait_for(runs.exists)
    assert group.cancel() == len(HOSTS)
    assert set(group.results(timeout=30).values()) == {CALL_CANCELLED}
    assert runs.read_text() == "x\n"


def test_running_calls_of_a_group_are_cancelled_together(
    make_servers, tmp_path, wait_for
):
    servers = make_servers(
        daemon={"limits": {"kill_grace": 40}},
        dispatcher={"limits": {"cancel_grace": 50}},
    )
    with servers.caller() as rpc:
        place = tmp_path / "place"
        place.mkdir()
        for _ in range(5):
            rpc.host("localhost", group="five").leave_together(str(place), 5)
        wait_for(lambda: len(list(place.glob("ready-*"))) == 5, 30)
        rpc.group("five").cancel()
        assert len(list(place.glob("left-*"))) == 5


def test_too_many_failures_stop_the_others(rpc, tmp_path, name):
    never = str(tmp_path / "never")
    for host, procedure, argument in [
        (HOSTS[0], "fail", "no"),
        (HOSTS[1], "count_then_wait", 1),
        (HOSTS[2], "no_such", 1),
    ]:
        arguments = (argument, never) if argument == 1 else (argument,)
        rpc.host(host, group=name)[procedure](*arguments)
    results = rpc.group(name).results(timeout=30, max_failures=1)
    assert results[HOSTS[0]].type == "ValueError"
    assert results[HOSTS[1]] is CALL_CANCELLED
    assert results[HOSTS[2]].type == "no_such_procedure"


def test_unknown_host_does_not_lose_the_others(rpc):
    results = rpc.hosts([HOSTS[0], "nowhere", HOSTS[1]]).add(1, 2).results(timeout=30)
    assert (results[HOSTS[0]], results[HOSTS[1]]) == (3, 3)
    assert results["nowhere"].type == "unknown_host"


# --- again --------------------------------------------------------------------------


def test_only_what_did_not_run_is_run_again(rpc, name):
    rpc.host(HOSTS[0], group=name).add(1, 2).result()
    rpc.host(HOSTS[1], group=name).fail().result()  # has run
    rpc.host(HOSTS[2], group=name).no_such().result()
    again = rpc.group(name).run_again()
    assert list(again.calls()) == [HOSTS[2]]
    assert again.id() != name
    again = rpc.group(name).run_again(ran=["no", "maybe", "yes"])
    assert list(again.calls()) == HOSTS[1:3]
    assert again.results(timeout=30)[HOSTS[1]].type == "ValueError"


def test_cancelled_calls_are_run_again_if_asked_to(rpc, tmp_path):
    path = tmp_path / "go"
    group = rpc.hosts(HOSTS[:2], at_a_time=1).count_then_wait(1, str(path))
    group.cancel()
    with pytest.raises(ValueError, match="no call to run again"):
        group.run_again()
    path.touch()
    again = rpc.group(group.id()).run_again(cancelled=True)
    assert again.results(timeout=30) == dict.fromkeys(HOSTS[:2], 1)
    (call, _) = again.calls().values()
    assert call.status()["queue"] == {"name": {"group": again.id()}, "concurrency": 1}


def test_secret_arguments_are_run_again_by_who_knows_them(rpc):
    group = rpc.hosts([HOSTS[0], "nowhere"]).echo(harp.Secret("geheim"))
    group.results(timeout=30)
    again = group.run_again()
    assert "geheim" not in json.dumps([c.status() for c in again.calls().values()])
    with pytest.raises(ValueError, match="secret"):
        rpc.group(group.id()).run_again()


def test_ran_must_be_what_it_may_be(rpc, name):
    for ran in (["never"], "no"):
        with pytest.raises(ValueError, match="no, maybe, yes"):
            rpc.group(name).run_again(ran=ran)


# --- what can't be ------------------------------------------------------------------


@pytest.mark.parametrize(
    "names, options, error",
    [
        ([], {}, ValueError),
        ("web01", {}, TypeError),
        (HOSTS, {"at_a_time": 0}, ValueError),
        (HOSTS, {"at_a_time": 1, "queue": {}}, ValueError),
        (HOSTS, {"concurrency": 1}, ValueError),
        (HOSTS, {"tiemout": 1}, TypeError),
    ],
)
def test_hosts_and_options_that_make_no_sense_are_told(names, options, error):
    with pytest.raises(error):
        harp.HarpCaller().hosts(names, **options)


def test_host_that_stands_there_twice_counts_once():
    servers = harp.HarpCaller().hosts(["b", "a", "b"])
    assert (list(servers), len(servers)) == (["b", "a"], 2)


def test_argument_that_is_no_json_sends_nothing():
    with pytest.raises(TypeError):
        harp.HarpCaller().hosts(HOSTS).add(object())


# --- refusals and broken connections ------------------------------------------------


def scripted(scripted_peer, answer):
    """A client of a dispatcher that answers ``answer(request, n)`` to its nth request,
    None: it closes; and those requests."""
    requests = []

    def serve(connection):
        while line := connection.readline():
            requests.append(json.loads(line))
            reply = answer(requests[-1], len(requests))
            if reply is None:
                connection.reset()
                return
            connection.send(json.dumps(reply).encode() + b"\n")

    peer = scripted_peer(serve)
    return harp.HarpCaller(*peer.address, retry_for=0.5, resume_for=0.5), peer, requests


def accept(request):
    return {"harpcaller": 1, "job_id": request["job_id"]}


def refuse(type="overloaded"):
    return {"harpcaller": 1, "error": {"type": type, "message": "no"}}


def test_all_calls_go_over_one_connection_under_one_group(scripted_peer):
    rpc, peer, requests = scripted(scripted_peer, lambda request, n: accept(request))
    hosts = [f"h{n}" for n in range(200)]
    with rpc:
        group = rpc.hosts(hosts).uptime()
    assert peer.connections == 1
    assert [request["host"] for request in requests] == hosts
    assert {request["group"] for request in requests} == {group.id()}


def test_call_that_is_refused_does_not_lose_the_others(scripted_peer):
    rpc, _, _ = scripted(
        scripted_peer, lambda request, n: refuse() if n == 2 else accept(request)
    )
    with rpc:
        group = rpc.hosts(["a", "b", "c"]).uptime()
    assert list(group.calls()) == ["a", "c"]
    assert isinstance(group.not_submitted["b"], harp.Unavailable)


def test_calls_whose_replies_are_lost_are_sent_again_as_they_were(scripted_peer):
    rpc, _, requests = scripted(
        scripted_peer, lambda request, n: None if n == 3 else accept(request)
    )
    hosts = [f"h{n}" for n in range(40)]
    with rpc:
        group = rpc.hosts(hosts).uptime()
    assert list(group.calls()) == hosts
    assert len({request["job_id"] for request in requests}) == 40


def test_calls_that_are_lost_for_good_are_told_from_those_never_sent(scripted_peer):
    rpc, _, _ = scripted(
        scripted_peer, lambda request, n: accept(request) if n == 1 else None
    )
    hosts = [f"h{n}" for n in range(100)]
    with rpc:
        group = rpc.hosts(hosts).uptime()
    assert list(group.calls()) == ["h0"]
    assert isinstance(group.not_submitted["h1"], harp.SubmissionLost)
    assert isinstance(group.not_submitted["h99"], harp.ConnectFailed)


def test_group_does_not_wait_for_calls_that_are_gone(scripted_peer):
    gone = {"harpcaller": 1, "error": {"type": "invalid_jobid", "message": "gone"}}

    def answer(request, n):
        if "host" in request:
            return accept(request)
        return {"jobs": [], "next": None} if "list_jobs" in request else gone

    rpc, _, _ = scripted(scripted_peer, answer)
    with rpc:
        group = rpc.hosts(["a", "b"]).uptime()
        with pytest.raises(harp.NoSuchCall):
            group.results(timeout=60)


LISTED = {"job_id": "x", "call": {"host": "a"}}


@pytest.mark.parametrize(
    "reply",
    [
        {"jobs": [5], "next": None},
        {"jobs": [{}], "next": None},
        {"jobs": [{"call": {"host": "a"}}], "next": None},
        {"jobs": [LISTED | {"outcome": ["result"]}], "next": None},
        {"jobs": [], "next": 7},
        {"jobs": [], "next": "the same again"},
    ],
)
def test_list_that_is_none_is_a_communication_error(scripted_peer, reply):
    rpc, _, _ = scripted(scripted_peer, lambda request, n: reply)
    with rpc, pytest.raises(harp.CommunicationError, match="not the protocol"):
        rpc.group("g").results(timeout=60)


def test_list_of_queues_without_an_end_is_a_communication_error(scripted_peer):
    page = {"queues": [], "next": {"name": "the same again"}}
    rpc, _, _ = scripted(scripted_peer, lambda request, n: page)
    with rpc, pytest.raises(harp.CommunicationError, match="goes on where it began"):
        rpc.queues()


@pytest.mark.parametrize("more", [{"queue": 5}, {"call": {"host": 5}}, {"packets": "1"}])
def test_status_of_a_group_that_is_none_is_a_communication_error(scripted_peer, more):
    call = {"host": "a", "procedure": "b", "arguments": []}
    status = {"job_id": "x", "call": call, "outcome": "error"} | more
    end = {"error": {"type": "timeout", "message": "late", "ran": "no"}}

    def answer(request, n):
        if "list_jobs" in request:
            return {"jobs": [status | {"call": call}], "next": None}
        return status if "get_status" in request else end

    rpc, _, _ = scripted(scripted_peer, answer)
    with rpc, pytest.raises(harp.CommunicationError, match="not the protocol"):
        if "packets" in more:
            rpc.job("x").follow()
        rpc.group("g").run_again()


def test_group_none_of_which_could_be_submitted_is_an_error(scripted_peer):
    rpc, _, _ = scripted(scripted_peer, lambda request, n: refuse("auth_error"))
    with rpc, pytest.raises(harp.AccessDenied):
        rpc.hosts(["a", "b"]).uptime()
