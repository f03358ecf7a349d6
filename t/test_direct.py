"""Direct calls against a daemon that says what a script tells it, and against the real
one."""

import json
import pickle
import queue
import threading

import harp
import pytest


def line(message) -> bytes:
    return json.dumps(message).encode() + b"\n"


def error_object(type="timeout", message="took too long", **more):
    return {"type": type, "message": message, **more}


def connect(address, **options) -> harp.HarpServer:
    return harp.HarpServer("127.0.0.1", "panel", "secret", port=address[1], **options)


@pytest.fixture
def daemon(scripted_peer, certificate):
    """``daemon(reply, **options)``: a client of a daemon that sends these bytes, or
    lines."""

    def start(*reply, read_more=False, **options):
        def serve(connection):
            requests.append(connection.readline())
            for part in reply:
                connection.send(part if isinstance(part, bytes) else line(part))
            if read_more:
                assert connection.read_to_end() == b""
                closed.set()

        requests: list[bytes] = []
        closed = threading.Event()
        peer = scripted_peer(serve, tls=True)
        if not options:
            options = {"cert_sha256": certificate.sha256}
        server = connect(peer.address, **options)
        server.__dict__.update(requests=requests, closed=closed)
        return server

    return start


SINGLE = {"harp": 1, "stream_result": False}
STREAMED = {"harp": 1, "stream_result": True}


def test_direct_call_sends_credentials_and_returns_the_value(daemon):
    server = daemon(SINGLE, {"result": [5]})
    assert server.add(1, 2) == [5]
    assert json.loads(server.requests[0]) == {
        "harp": 1,
        "procedure": "add",
        "arguments": [1, 2],
        "auth": {"user": "panel", "password": "secret"},
    }


def test_direct_stream_ends_with_a_result(daemon):
    server = daemon(STREAMED, {"stream": "a"}, {"stream": "b"}, {"result": 5})
    assert list(server["count-to"](n=2)) == ["a", "b", harp.Result(5)]


def test_direct_call_raises_what_the_procedure_raised(daemon):
    with pytest.raises(harp.RemoteException, match="ValueError: no"):
        daemon(SINGLE, {"exception": error_object("ValueError", "no")}).fail()
    stream = daemon(STREAMED, {"stream": 1}, {"exception": error_object()}).fail()
    assert next(stream) == 1
    with pytest.raises(harp.RemoteException):
        next(stream)


def test_direct_call_raises_the_daemons_error(daemon):
    with pytest.raises(harp.RemoteError, match="auth_error"):
        daemon({"harp": 1, "error": error_object("auth_error", "no")}).uptime()


@pytest.mark.parametrize(
    "reply",
    [
        [],
        [b'{"harp": 1, "stre'],
        [b"hello\n"],
        [{"result": 5}],
        [{"harp": 2, "stream_result": False}],
        [SINGLE],
        [SINGLE, {"stream": 5}],
        [SINGLE, SINGLE],
    ],
)
def test_daemons_reply_that_is_not_the_protocol_is_a_communication_error(daemon, reply):
    with pytest.raises(harp.CommunicationError, match=r"127\.0\.0\.1:\d+: "):
        daemon(*reply).uptime()


@pytest.mark.parametrize("rest", [[], [STREAMED], [b"x\n"], [{"harp": 1}]])
def test_direct_stream_that_breaks_raises(daemon, rest):
    stream = daemon(STREAMED, {"stream": "a"}, *rest).count()
    assert next(stream) == "a"
    with pytest.raises(harp.CommunicationError):
        next(stream)
    assert list(stream) == []


def test_closing_a_direct_stream_closes_the_connection(daemon):
    server = daemon(STREAMED, {"stream": "a"}, read_more=True)
    with server.count() as stream:
        assert next(stream) == "a"
    assert server.closed.wait(10)


def test_direct_call_waits_no_longer_than_asked_to(daemon, certificate):
    server = daemon(
        SINGLE, read_more=True, cert_sha256=certificate.sha256, timeout=0.05
    )
    with pytest.raises(harp.CommunicationError, match="no reply in 0.05 s"):
        server.sleep()


def test_direct_server_can_be_pickled_and_does_not_show_its_password(daemon):
    server = daemon(SINGLE, {"result": 5})
    assert server.add(1) == 5
    assert "secret" not in repr(server) + str(server) + repr(server.add)
    del server.__dict__["closed"]
    assert pickle.loads(pickle.dumps(server)).add(1) == 5


# --- whom a direct call trusts ------------------------------------------------------


@pytest.fixture
def eavesdropper(scripted_peer):
    """``eavesdropper(context)``: a peer with that TLS, or one that greets in plain
    text; ``.received()`` is all that a client has sent to it."""

    def start(context):
        def serve(connection):
            try:
                if context is None:
                    connection.send(b"220 mail.example.net ESMTP\r\n")
                    heard.put(connection.read_to_end())
                    return
                with context.wrap_socket(connection.sock, server_side=True) as tls:
                    heard.put(tls.recv(65536))
            except OSError:
                heard.put(b"")  # the client has broken off

        heard: queue.Queue[bytes] = queue.Queue()
        peer = scripted_peer(serve)
        peer.received = lambda: heard.get(timeout=10)
        return peer

    return start


def test_certificate_of_an_authority_is_trusted_for_its_names(daemon, certificate):
    options = {"ca_file": certificate.certificate}
    assert daemon(SINGLE, {"result": 1}, **options).uptime() == 1
    server = daemon(SINGLE, {"result": 1}, tls_name="localhost", **options)
    assert server.uptime() == 1


def test_pin_may_be_written_as_openssl_does(daemon, certificate):
    pin = certificate.sha256.upper()
    pin = ":".join(pin[n : n + 2] for n in range(0, 64, 2))
    assert daemon(SINGLE, {"result": 1}, cert_sha256=pin).uptime() == 1


@pytest.mark.parametrize(
    "options",
    [
        {"cert_sha256": "0" * 64},
        {"tls_name": "localhost"},
        {"ca_file": "CERTIFICATE", "tls_name": "other.example.net"},
    ],
    ids=["other pin", "no authority", "other name"],
)
def test_credentials_are_not_sent_to_whom_nothing_vouches_for(
    eavesdropper, certificate, server_context, options
):
    peer = eavesdropper(server_context)
    if "ca_file" in options:
        options = options | {"ca_file": certificate.certificate}
    with pytest.raises(harp.CommunicationError, match=r"127\.0\.0\.1.*certificate"):
        connect(peer.address, **options).uptime()
    assert peer.received() == b""


def test_plain_text_peer_gets_no_credentials(eavesdropper, certificate):
    peer = eavesdropper(None)
    with pytest.raises(harp.CommunicationError, match="TLS handshake failed"):
        connect(peer.address, cert_sha256=certificate.sha256).uptime()
    assert b"secret" not in peer.received()


def test_ca_file_that_can_not_be_used_is_named(tmp_path):
    path = tmp_path / "ca.pem"
    for content in (None, "no certificate"):
        if content is not None:
            path.write_text(content)
        server = harp.HarpServer("127.0.0.1", "panel", "secret", ca_file=path)
        with pytest.raises(harp.ConfigurationError, match=f"{path}: not usable"):
            server.uptime()


@pytest.mark.parametrize(
    "options",
    [{"cert_sha256": "abc"}, {"cert_sha256": "0" * 64, "ca_file": "ca.pem"}],
)
def test_trust_that_makes_no_sense_is_a_value_error(options):
    with pytest.raises(ValueError, match="cert_sha256"):
        harp.HarpServer("web01", "panel", "secret", **options)


# --- with the real one --------------------------------------------------------------


def test_real_daemon_returns_values_streams_and_exceptions(servers):
    server = servers.direct()
    assert server.add(1, 2) == 3
    assert list(server.count(3)) == [0, 1, 2, harp.Result(3)]
    with pytest.raises(harp.RemoteException, match="ValueError"):
        server.fail()


def test_real_daemon_refuses_a_wrong_password(servers):
    host, port = servers.daemon_address
    pin = servers.certificate.sha256
    server = harp.HarpServer(host, servers.user, "wrong", port=port, cert_sha256=pin)
    with pytest.raises(harp.RemoteError, match="auth_error"):
        server.add(1, 2)
