"""Who may connect to the dispatcher, who a client is, and what it may do."""

import grp
import json
import os
import pwd
import ssl
import stat
import subprocess
import time

import pytest
from dispatchers import (
    HARPCALLERD,
    HOST,
    Client,
    Daemon,
    Dispatcher,
    TlsClient,
    call_request,
    count,
    echo,
    host_entry,
    request,
    wait_for_end,
)
from harp import testing

ME = pwd.getpwuid(os.getuid()).pw_name
USERS = {"panel": "plain:sesame", "watcher": "plain:only looks"}
PANEL = {"user": "panel", "password": "sesame"}
WATCHER = {"user": "watcher", "password": "only looks"}
NOBODY = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def hosts(server_context, certificate):
    """Two hosts of one daemon, for the dispatchers' registry."""
    daemon = Daemon(server_context)
    daemon.scripts |= {"echo": echo, "wait": wait_for_end, "count": count}
    pin = certificate.sha256
    yield [
        host_entry(daemon.address, name, cert_sha256=pin) for name in (HOST, "db01")
    ]
    daemon.stop()


@pytest.fixture
def make_dispatcher(request, tmp_path, hosts, certificate):
    """``make_dispatcher(**changes)`` starts one with a TLS listener for users."""

    def make(start=True, **changes):
        defaults = {
            "listen": [
                {"address": "127.0.0.1:0", "tls": True},
                f"unix:{tmp_path}/d/client",
            ],
            "tls": {
                "certificate": certificate.certificate,
                "key": certificate.key,
            },
            "users": USERS,
            "auth": {"failure_delay": 0.01},
        }
        made = Dispatcher(tmp_path / "d", hosts, **(defaults | changes))
        if start:
            made.start()
            request.addfinalizer(made.stop)
        return made

    return make


@pytest.fixture
def secure(make_dispatcher, client_context):
    """``secure(dispatcher)`` connects by TLS."""
    clients = []

    def connect(dispatcher) -> TlsClient:
        client = TlsClient(("127.0.0.1", port_of(dispatcher)), client_context)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()


def port_of(dispatcher) -> int:
    return int(dispatcher.addresses[0].rpartition(":")[2])


def start_fails(dispatcher) -> str:
    with pytest.raises(testing.ProgramError) as caught:
        dispatcher.start()
    return str(caught.value)


def type_of(reply: dict) -> str:
    assert reply["harpcaller"] == 1
    return reply["error"]["type"]


def audit_lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- who is let in ------------------------------------------------------------------


def test_user_with_the_right_password_is_served_and_recorded_by_name(
    make_dispatcher, secure
):
    dispatcher = make_dispatcher()
    client = secure(dispatcher)
    job_id = client.ask(call_request("echo", 1, auth=PANEL))["job_id"]
    assert client.ask(request("get_result", job_id)) == {"result": [1]}
    assert client.ask(request("get_status", job_id))["submitted_by"] == "panel"


@pytest.mark.parametrize(
    "auth",
    [
        {"user": "panel", "password": "Sesame"},
        {"user": "nobody", "password": "sesame"},
        {"user": "panel", "password": "plain:sesame"},
    ],
)
def test_wrong_password_and_unknown_user_get_the_same_error_and_are_closed(
    make_dispatcher, secure, auth
):
    client = secure(make_dispatcher())
    client.send(call_request("echo", auth=auth), call_request("echo", auth=PANEL))
    [reply] = client.rest()
    assert reply["error"] == {
        "type": "auth_error",
        "message": "unknown user or wrong password",
    }


@pytest.mark.parametrize(
    "first",
    [
        call_request("echo"),
        request("list_hosts", True),
        call_request("echo", auth=5),
        call_request("echo", auth={"user": "panel"}),
        {"harpcaller": 2},
    ],
)
def test_first_request_must_say_who_sends_it(make_dispatcher, secure, first):
    client = secure(make_dispatcher())
    client.send(first, call_request("echo", auth=PANEL))
    [reply] = client.rest()
    assert type_of(reply) in ("auth_error", "invalid_request")


def test_failures_of_one_user_are_answered_later_each_time(make_dispatcher, secure):
    limits = {"failure_delay": 0.2, "max_failure_delay": 0.8}
    dispatcher = make_dispatcher(auth=limits)
    begin = time.monotonic()
    for _ in range(3):
        wrong = {"user": "panel", "password": "guess"}
        assert type_of(secure(dispatcher).ask(request("list_hosts", True, auth=wrong)))
    assert time.monotonic() - begin >= 0.2 + 0.4 + 0.8
    right = request("list_hosts", True, auth=PANEL)
    assert "error" not in secure(dispatcher).ask(right)


def test_other_user_on_a_kept_connection_is_verified_too(make_dispatcher, secure):
    client = secure(make_dispatcher())
    first = client.ask(call_request("echo", auth=PANEL))["job_id"]
    second = client.ask(call_request("echo", auth=WATCHER))["job_id"]
    assert client.ask(request("get_status", first))["submitted_by"] == "panel"
    assert client.ask(request("get_status", second))["submitted_by"] == "watcher"
    wrong = {"user": "panel", "password": "x"}
    assert type_of(client.ask(call_request("echo", auth=wrong))) == "auth_error"
    assert client.rest() == []


def test_user_of_the_password_file_who_is_removed_is_refused_on_a_kept_connection(
    make_dispatcher, secure, tmp_path
):
    file = tmp_path / "passwords"
    assert passwd(file, "operator", stdin="secret\n").returncode == 0
    client = secure(make_dispatcher(password_file=file))
    auth = {"user": "operator", "password": "secret"}
    assert "hosts" in client.ask(request("list_hosts", True, auth=auth))
    assert "hosts" in client.ask(request("list_hosts", True))
    assert passwd("--delete", file, "operator").returncode == 0
    assert type_of(client.ask(request("list_hosts", True))) == "auth_error"


def passwd(*arguments, stdin="") -> subprocess.CompletedProcess:
    return subprocess.run(
        [*HARPCALLERD, "passwd", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_peer_of_the_unix_socket_is_known_without_a_word(make_dispatcher):
    dispatcher = make_dispatcher()
    with dispatcher.connect_unix() as client:
        job_id = client.ask(call_request("echo"))["job_id"]
        assert client.ask(request("get_status", job_id))["submitted_by"] == ME


def test_plain_text_on_the_tls_port_is_told_so(make_dispatcher):
    with Client(("127.0.0.1", port_of(make_dispatcher()))) as client:
        client.send(call_request("echo", auth=PANEL))
        [reply] = client.rest()
        assert type_of(reply) == "invalid_protocol" and "TLS" in str(reply)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_tls_is_refused(make_dispatcher, client_context):
    address = ("127.0.0.1", port_of(make_dispatcher()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # at which this side would do it
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError):
        TlsClient(address, context)
    TlsClient(address, client_context).close()


def test_stream_is_followed_over_tls_after_half_a_close(make_dispatcher, secure):
    client = secure(make_dispatcher())
    job_id = client.ask(call_request("count", 3000, auth=PANEL))["job_id"]
    client.send(request("follow_stream", job_id, since=0))
    packets, end = client.stream()
    assert [packet["data"] for packet in packets] == list(range(3000))
    assert end == {"result": 3000}


def test_network_that_is_not_listed_is_closed_without_a_word(make_dispatcher):
    listen = {"address": "127.0.0.1:0", "tls": True, "allow_from": ["192.0.2.0/24"]}
    dispatcher = make_dispatcher(listen=[listen])
    with Client(("127.0.0.1", port_of(dispatcher))) as client:
        assert client.line() == b""
    assert "connection refused" in dispatcher.log()


def test_reload_changes_who_may_come_in_at_an_address(
    make_dispatcher, secure, tmp_path
):
    dispatcher = make_dispatcher()
    port = port_of(dispatcher)
    unix = f"unix:{tmp_path}/d/client"

    def reload(*listen) -> list[str]:
        dispatcher.configure(listen=[*listen])
        dispatcher.write_config()
        reply = dispatcher.admin("reload")
        assert reply["faults"] == []
        return reply["restart"]

    # The port that was free is that of 127.0.0.1:0.
    entry = {"address": "127.0.0.1:0", "tls": True}
    assert reload(unix, entry | {"allow_from": ["192.0.2.0/24"]}) == []
    with Client(("127.0.0.1", port)) as client:
        assert client.line() == b""
    assert reload(unix, entry | {"anonymous": True}) == []
    assert "hosts" in secure(dispatcher).ask(request("list_hosts", True))
    assert "need not say who they are" in dispatcher.log()
    assert reload(unix, entry | {"tls": False, "anonymous": True}) == []
    with Client(("127.0.0.1", port)) as client:
        assert "hosts" in client.ask(request("list_hosts", True))
    other = {"address": unix, "mode": "0600"}
    assert reload(other, entry) == [f"listen ({unix})"]
    assert type_of(secure(dispatcher).ask(request("list_hosts", True))) == "auth_error"
    assert reload(unix, entry) == []


def test_silent_handshake_ends_in_time(make_dispatcher, wait_for):
    dispatcher = make_dispatcher(limits={"handshake_timeout": 0.2})
    with Client(("127.0.0.1", port_of(dispatcher))) as client:
        assert client.line() == b""
    wait_for(lambda: "no TLS handshake" in dispatcher.log())


def test_connections_without_a_name_give_way_and_those_with_one_stay(
    make_dispatcher, secure
):
    dispatcher = make_dispatcher(limits={"unauthenticated": 2})
    known = secure(dispatcher)
    assert "hosts" in known.ask(request("list_hosts", True, auth=PANEL))
    silent = [Client(("127.0.0.1", port_of(dispatcher))) for _ in range(5)]
    newest = secure(dispatcher)
    assert "hosts" in newest.ask(request("list_hosts", True, auth=PANEL))
    assert "hosts" in known.ask(request("list_hosts", True))
    for client in silent:
        client.close()


def test_one_who_shook_hands_and_gives_way_is_told_why(make_dispatcher, secure):
    dispatcher = make_dispatcher(limits={"unauthenticated": 1})
    waiting = secure(dispatcher)
    newest = secure(dispatcher)
    assert "hosts" in newest.ask(request("list_hosts", True, auth=PANEL))
    [reply] = waiting.rest()
    assert type_of(reply) == "overloaded"


# --- listeners ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    {
        "TCP without TLS": ({"listen": ["127.0.0.1:0"]}, "anonymous = true"),
        "TLS without users": ({"users": {}}, "nobody is known there"),
        "no certificate": (
            {"tls": {"certificate": "/nowhere/c", "key": "/nowhere/k"}},
            "tls.certificate: /nowhere/c",
        ),
        "users that can't be": ({"users": {"a": "sesame"}}, "users.a"),
        "password file": ({"password_file": "/nowhere/p"}, "password_file: /nowhere/p"),
        "audit file": ({"audit": {"file": "/nowhere/a"}}, "audit.file: /nowhere/a"),
        "authorization": ({"authorization": {"panel": {}}}, "authorization: panel"),
    }.values(),
)
def test_start_without_what_it_needs_says_what(make_dispatcher, changes, text):
    failure = start_fails(make_dispatcher(start=False, **changes))
    assert text in failure and "Traceback" not in failure


@pytest.mark.parametrize(
    ("address", "text"),
    [("127.0.0.1:0", "every user of this machine"), ("0.0.0.0:0", "whoever reaches")],
)
def test_each_start_warns_of_an_anonymous_listener(make_dispatcher, address, text):
    listen = [{"address": address, "anonymous": True}]
    dispatcher = make_dispatcher(listen=listen, users={})
    assert text in dispatcher.log()
    with Client(("127.0.0.1", port_of(dispatcher))) as client:
        job_id = client.ask(call_request("echo"))["job_id"]
        assert client.ask(request("get_status", job_id))["submitted_by"] is None


def test_anonymous_listener_verifies_who_gives_a_name(make_dispatcher):
    listen = [{"address": "127.0.0.1:0", "anonymous": True}]
    dispatcher = make_dispatcher(listen=listen)
    with Client(("127.0.0.1", port_of(dispatcher))) as client:
        job_id = client.ask(call_request("echo", auth=PANEL))["job_id"]
        assert client.ask(request("get_status", job_id))["submitted_by"] == "panel"
    with Client(("127.0.0.1", port_of(dispatcher))) as client:
        wrong = {"user": "panel", "password": "x"}
        assert type_of(client.ask(call_request("echo", auth=wrong))) == "auth_error"


def test_anonymous_tls_is_encrypted_and_asks_for_no_name(make_dispatcher, secure):
    listen = [{"address": "127.0.0.1:0", "tls": True, "anonymous": True}]
    dispatcher = make_dispatcher(listen=listen, users={})
    assert "hosts" in secure(dispatcher).ask(request("list_hosts", True))


def test_unix_socket_has_its_mode_and_group(make_dispatcher, tmp_path):
    group = grp.getgrgid(os.getgid())
    entry = {"address": f"unix:{tmp_path}/d/c", "mode": "0620", "group": group.gr_name}
    make_dispatcher(listen=[entry])
    status = os.stat(tmp_path / "d" / "c")
    assert stat.S_IMODE(status.st_mode) == 0o620 and status.st_gid == group.gr_gid


def test_unix_socket_of_a_group_that_is_none_is_refused(make_dispatcher, tmp_path):
    entry = {"address": f"unix:{tmp_path}/d/c", "group": "no such group"}
    assert "no such group" in start_fails(make_dispatcher(start=False, listen=[entry]))


# --- what a client may do -----------------------------------------------------------

LIMITED = {
    "panel": {
        "operations": ["call", "cancel", "read", "list"],
        "hosts": ["web*"],
        "procedures": ["echo", "wa?t"],
        "queues": ["", '{"for":*'],
        "own_jobs": True,
    },
    "watcher": {"operations": ["read", "list"], "hosts": ["web*"]},
    ME: {"operations": ["*"]},
}


@pytest.fixture
def limited(make_dispatcher):
    return make_dispatcher(authorization=LIMITED)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (call_request("echo", host="db01"), "call anything on 'db01'"),
        (call_request("count", 1), "call 'count'"),
        (call_request("echo", queue={"name": {}}), "use that queue"),
    ],
)
def test_call_beyond_the_patterns_is_refused(limited, secure, call, reason):
    client = secure(limited)
    reply = client.ask(call | {"auth": PANEL})
    assert type_of(reply) == "auth_error"
    assert reply["error"]["message"] == f"user 'panel' may not {reason}"
    # And the connection goes on.
    queue = {"name": {"for": "panel"}}
    assert "job_id" in client.ask(call_request("echo", queue=queue))
    assert "job_id" in client.ask(call_request("echo"))


def test_operation_that_is_not_listed_is_refused(limited, secure):
    client = secure(limited)
    for message in (call_request("echo"), request("cancel", NOBODY)):
        assert type_of(client.ask(message | {"auth": WATCHER})) == "auth_error"
    assert type_of(client.ask(request("get_status", NOBODY))) == "invalid_jobid"


def test_who_is_not_in_the_table_may_do_nothing(make_dispatcher, secure):
    dispatcher = make_dispatcher(authorization={"other": {"operations": ["*"]}})
    client = secure(dispatcher)
    for message in (
        call_request("echo"),
        request("cancel", NOBODY),
        request("get_result", NOBODY),
        request("explain", NOBODY),
        request("list_jobs", {}),
        request("list_hosts", True),
        request("list_queues", True),
        request("list_procedures", HOST),
    ):
        assert type_of(client.ask(message | {"auth": PANEL})) == "auth_error"
    with dispatcher.connect_unix() as client:
        assert type_of(client.ask(request("list_hosts", True))) == "auth_error"


def test_who_may_open_the_admin_socket_may_do_everything(make_dispatcher):
    dispatcher = make_dispatcher(authorization={})
    with dispatcher.connect_unix("control") as client:
        assert "job_id" in client.ask(call_request("echo"))


def test_jobs_of_others_do_not_exist_to_a_client_limited_to_its_own(limited, secure):
    with limited.connect_unix() as other:
        foreign = other.ask(call_request("wait"))["job_id"]
        client = secure(limited)
        own = client.ask(call_request("wait", auth=PANEL))["job_id"]
        unknown = NOBODY
        for operation in (
            "get_status", "get_result", "follow_stream", "read_stream", "explain",
        ):  # fmt: skip
            refused = client.ask(request(operation, foreign))
            assert type_of(refused) == "invalid_jobid"
            expected = client.ask(request(operation, unknown))
            assert str(refused).replace(foreign, unknown) == str(expected)
        assert client.ask(request("cancel", foreign)) == {"cancelled": False}
        listed = client.ask(request("list_jobs", {}))["jobs"]
        assert [job["job_id"] for job in listed] == [own]
        asked = {"ids": [foreign, own]}
        listed = client.ask(request("list_jobs", asked))["jobs"]
        assert [job["job_id"] for job in listed] == [own]
        asked = {"submitted_by": ME}
        assert client.ask(request("list_jobs", asked))["jobs"] == []
        assert type_of(client.ask(request("list_queues", True))) == "auth_error"
        # The other one sees both.
        assert other.ask(request("get_status", foreign))["state"] != "done"
        assert len(other.ask(request("list_jobs", {}))["jobs"]) == 2
        assert client.ask(request("cancel", own)) == {"cancelled": True}
        assert other.ask(request("cancel", foreign)) == {"cancelled": True}


def test_explanation_names_no_job_of_others(limited, secure, wait_for):
    queue = {"name": {"for": "all"}}
    with limited.connect_unix() as other:
        foreign = other.ask(call_request("wait", queue=queue))["job_id"]
        wait_for(lambda: state(other, foreign) == "running")
        client = secure(limited)
        own = client.ask(call_request("wait", queue=queue, auth=PANEL))["job_id"]
        told = client.ask(request("explain", own))
        assert "explain" in told and foreign not in str(told)
        assert foreign in str(other.ask(request("explain", own)))
        assert client.ask(request("cancel", own)) == {"cancelled": True}
        assert other.ask(request("cancel", foreign)) == {"cancelled": True}


def state(client, job_id) -> str:
    return client.ask(request("get_status", job_id))["state"]


def test_jobs_on_hosts_that_are_not_listed_do_not_exist(limited, secure):
    with limited.connect_unix() as other:
        seen = other.ask(call_request("echo"))["job_id"]
        hidden = other.ask(call_request("echo", host="db01"))["job_id"]
        for job_id in (seen, hidden):
            other.ask(request("get_result", job_id))
    client = secure(limited)
    assert client.ask(request("get_result", seen, auth=WATCHER)) == {"result": []}
    assert type_of(client.ask(request("get_result", hidden))) == "invalid_jobid"
    listed = client.ask(request("list_jobs", {}))["jobs"]
    assert [job["job_id"] for job in listed] == [seen]
    hosts = client.ask(request("list_hosts", True))["hosts"]
    assert [host["hostname"] for host in hosts] == [HOST]
    assert type_of(client.ask(request("list_procedures", "db01"))) == "auth_error"


# --- reload -------------------------------------------------------------------------


def test_reload_changes_users_rights_and_the_certificate(
    make_dispatcher, secure, tmp_path, certificate
):
    dispatcher = make_dispatcher()
    kept = secure(dispatcher)
    assert "hosts" in kept.ask(request("list_hosts", True, auth=PANEL))
    (tmp_path / "new").mkdir()
    new = testing.make_certificate(tmp_path / "new")
    dispatcher.configure(
        users={"panel": "plain:changed"},
        authorization={"panel": {"operations": ["read"]}},
        tls={"certificate": new.certificate, "key": new.key},
    )
    dispatcher.write_config()
    assert dispatcher.admin("reload")["reloaded"]
    assert type_of(kept.ask(request("list_hosts", True))) == "auth_error"
    with pytest.raises(ssl.SSLCertVerificationError):
        secure(dispatcher)
    context = ssl.create_default_context(cafile=new.certificate)
    with TlsClient(("127.0.0.1", port_of(dispatcher)), context) as client:
        auth = {"user": "panel", "password": "changed"}
        assert type_of(client.ask(call_request("echo", auth=auth))) == "auth_error"
        assert type_of(client.ask(request("get_result", NOBODY))) == "invalid_jobid"


@pytest.mark.parametrize(
    "changes",
    [
        {"users": {"panel": "sesame"}},
        {"users": {}},
        {"tls": {"certificate": "/nowhere", "key": "/nowhere"}},
        {"audit": {"file": "/nowhere/audit"}},
        {"password_file": "/nowhere/passwords"},
    ],
)
def test_reload_of_what_can_not_be_used_changes_nothing(
    make_dispatcher, secure, changes
):
    dispatcher = make_dispatcher()
    dispatcher.configure(**changes, authorization={})
    dispatcher.write_config()
    reply = dispatcher.admin("reload")
    assert not reply["reloaded"] and reply["faults"]
    assert "hosts" in secure(dispatcher).ask(request("list_hosts", True, auth=PANEL))
