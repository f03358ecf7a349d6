"""Each operation of clients, asked by each kind of client; and jobs of others, which
are to each limited client as if they were not."""

import json
import os
import pwd

import pytest
from dispatchers import (
    HOST,
    Client,
    Daemon,
    Dispatcher,
    TlsClient,
    call_request,
    echo,
    host_entry,
    request,
    wait_for_end,
)
from harp import jobid

ME = pwd.getpwuid(os.getuid()).pw_name
UNKNOWN = jobid.make()
QUEUE = {"for": "others"}
THEIRS = {"host": "db01", "queue": {"name": QUEUE}, "group": "theirs"}

RIGHTS = {
    "caller": {"operations": ["call"]},
    "canceller": {"operations": ["cancel"]},
    "reader": {"operations": ["read"]},
    "lister": {"operations": ["list"]},
    # These may do everything, each with a part of the jobs.
    "own": {"operations": ["*"], "own_jobs": True},
    "web": {"operations": ["*"], "hosts": ["web*"]},
    "echoes": {"operations": ["*"], "procedures": ["echo"]},
    "plain": {"operations": ["*"], "queues": [""]},
    ME: {"operations": ["*"]},
}
LIMITED = ["own", "web", "echoes", "plain"]
USERS = [*RIGHTS][:-1] + ["nobody"]
KINDS = [*USERS, "anonymous", "peer", "admin"]
EVERYTHING = {*LIMITED, "peer", "admin"}

CALL = call_request("echo")
OPERATIONS = {
    "call": (CALL, {"caller"}),
    "cancel": (request("cancel", UNKNOWN), {"canceller"}),
    "get_result": (request("get_result", UNKNOWN), {"reader"}),
    "get_status": (request("get_status", UNKNOWN), {"reader"}),
    "follow_stream": (request("follow_stream", UNKNOWN), {"reader"}),
    "read_stream": (request("read_stream", UNKNOWN), {"reader"}),
    "explain": (request("explain", UNKNOWN), {"reader"}),
    "list_jobs": (request("list_jobs", {}), {"lister"}),
    "list_jobs by id": (request("list_jobs", {"ids": [UNKNOWN]}), {"lister"}),
    "list_hosts": (request("list_hosts", True), {"lister"}),
    "list_queues": (request("list_queues", True), {"lister"}),
    "list_procedures": (request("list_procedures", "web77"), {"lister"}),
}
REFUSED = {("own", "list_queues")}

ABOUT_A_JOB = {
    "get_result": lambda job: request("get_result", job),
    "get_result now": lambda job: request("get_result", job, wait=False),
    "get_status": lambda job: request("get_status", job),
    "follow_stream": lambda job: request("follow_stream", job, since=0),
    "read_stream": lambda job: request("read_stream", job, recent=1),
    "explain": lambda job: request("explain", job),
    "cancel": lambda job: request("cancel", job),
    "list_jobs": lambda job: request("list_jobs", {"ids": [job]}),
}


@pytest.fixture(scope="module")
def dispatcher(server_context, certificate, tmp_path_factory):
    daemon = Daemon(server_context)
    daemon.scripts |= {"echo": echo, "wait": wait_for_end}
    directory = tmp_path_factory.mktemp("matrix")
    dispatcher = Dispatcher(
        directory,
        [
            host_entry(daemon.address, name, cert_sha256=certificate.sha256)
            for name in (HOST, "db01")
        ],
        listen=[
            {"address": "127.0.0.1:0", "tls": True},
            {"address": "127.0.0.1:0", "anonymous": True},
            f"unix:{directory}/client",
        ],
        tls={"certificate": certificate.certificate, "key": certificate.key},
        users={user: f"plain:{user} 1" for user in USERS},
        authorization=RIGHTS,
    )
    dispatcher.start()
    yield dispatcher
    dispatcher.stop()
    daemon.stop()


@pytest.fixture(scope="module")
def clients(dispatcher, client_context):
    """A connection of each kind."""
    secure, plain = (
        ("127.0.0.1", int(address.rpartition(":")[2]))
        for address in dispatcher.addresses[:2]
    )
    clients = {user: TlsClient(secure, client_context) for user in USERS}
    for user, client in clients.items():
        client.ask(request(auth={"user": user, "password": f"{user} 1"}))
    clients["anonymous"] = Client(plain)
    clients["peer"] = dispatcher.connect_unix()
    clients["admin"] = dispatcher.connect_unix("control")
    yield clients
    for client in clients.values():
        client.close()


@pytest.fixture(scope="module")
def foreign(clients):
    """Ids of jobs that exist to no limited client, each for a reason of its own, by
    state."""
    peer = clients["peer"]

    def call() -> str:
        return peer.ask(call_request("wait", **THEIRS))["job_id"]

    ids = {"running": call(), "queued": call(), "done": call()}
    assert peer.ask(request("cancel", ids["done"])) == {"cancelled": True}
    yield ids
    for state in ("queued", "running"):
        # Whatever the limited ones have tried, they were not reached.
        assert peer.ask(request("cancel", ids[state])) == {"cancelled": True}


def is_refused(reply: dict) -> bool:
    return reply.get("error", {}).get("type") == "auth_error"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_client_may_do_what_it_is_listed_for_and_nothing_else(
    clients, operation, kind
):
    message, allowed = OPERATIONS[operation]
    may = kind in allowed | EVERYTHING and (kind, operation) not in REFUSED
    assert is_refused(clients[kind].ask(message)) == (not may)


@pytest.mark.parametrize("kind", LIMITED)
@pytest.mark.parametrize("state", ["queued", "running", "done"])
@pytest.mark.parametrize("operation", ABOUT_A_JOB)
def test_job_of_others_is_like_one_that_never_was(
    clients, foreign, operation, state, kind
):
    ask = ABOUT_A_JOB[operation]
    replies = [clients[kind].ask(ask(job)) for job in (foreign[state], UNKNOWN)]
    texts = [json.dumps(reply) for reply in replies]
    assert texts[0].replace(foreign[state], UNKNOWN) == texts[1]


@pytest.mark.parametrize("kind", LIMITED)
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"group": "theirs"},
        {"host": "db01", "limit": 1},
        {"procedure": "wait"},
        {"queue": QUEUE},
        {"state": "running"},
        {"state": "queued", "limit": 1},
        {"outcome": "cancelled"},
        {"submitted_by": ME, "group": "theirs"},
        {"before": jobid.make(2**48 - 1)},
    ],
)
def test_no_list_holds_a_job_of_others(clients, foreign, filters, kind):
    reply = clients[kind].ask(request("list_jobs", filters))
    assert reply["next"] is None
    assert not {job["job_id"] for job in reply["jobs"]} & {*foreign.values()}
    assert "db01" not in str(reply)


@pytest.mark.parametrize("kind", LIMITED)
def test_list_that_is_full_does_not_go_on_for_jobs_of_others(clients, foreign, kind):
    client = clients[kind]
    ids = [client.ask(call_request("echo", group=kind))["job_id"] for _ in range(2)]
    filters = {"group": kind, "limit": 2}
    reply = client.ask(request("list_jobs", filters))
    assert {job["job_id"] for job in reply["jobs"]} == {*ids}
    assert reply["next"] is None
    reply = client.ask(request("list_jobs", filters | {"limit": 1}))
    assert reply["next"] == max(ids)
    reply = client.ask(request("list_jobs", filters | {"before": reply["next"]}))
    assert [job["job_id"] for job in reply["jobs"]] == [min(ids)]


def test_queue_names_no_job_of_others(clients, foreign):
    oldest = {}
    for kind in ("peer", "web", "echoes", "plain"):
        queues = clients[kind].ask(request("list_queues", True))["queues"]
        oldest[kind] = [queue["oldest"] for queue in queues if queue["name"] == QUEUE]
    assert oldest == {
        "peer": [foreign["queued"]], "web": [None], "echoes": [None], "plain": []
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["caller", *LIMITED])
@pytest.mark.parametrize("state", ["queued", "running", "done"])
def test_call_under_the_id_of_others_tells_that_it_is_taken_and_no_more(
    clients, foreign, state, kind
):
    job_id = foreign[state]
    assert clients[kind].ask(CALL | {"job_id": job_id})["error"] == {
        "type": "invalid_request",
        "message": f"job_id {job_id} is that of another call",
    }


def test_same_call_under_the_same_id_by_another_client_is_another_call(
    clients, foreign
):
    job_id = foreign["running"]
    same = call_request("wait", **THEIRS, job_id=job_id)
    assert clients["peer"].ask(same)["job_id"] == job_id
    for kind in ("own", "caller"):
        assert clients[kind].ask(same)["error"]["type"] == "invalid_request"
    for kind in ("web", "echoes", "plain", "nobody", "anonymous"):
        assert is_refused(clients[kind].ask(same))
