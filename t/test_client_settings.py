"""How the client finds the dispatcher, and whom it trusts."""

import grp
import hashlib
import json
import os
import socket
import tempfile

import harp
import pytest
from harp import settings

PIN = "0" * 64


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch, tmp_path):
    monkeypatch.delenv(settings.URL_VARIABLE, raising=False)
    monkeypatch.setattr(settings, "CLIENT_FILE", str(tmp_path / "client.toml"))


@pytest.fixture
def client_file(tmp_path):
    """``client_file(text)`` writes the file."""
    return (tmp_path / "client.toml").write_text


def shown(*arguments, **options) -> str:
    return repr(harp.HarpCaller(*arguments, **options))


def test_default_is_the_unix_socket():
    assert shown() == "<HarpCaller unix:/run/harpcaller/client>"


@pytest.mark.parametrize(
    "place, address",
    [
        ("localhost", "localhost:3502"),
        ("harp://panel.example.net", "panel.example.net:3502"),
        ("harp://panel.example.net:13502/", "panel.example.net:13502"),
        ("harps://[::1]:13502", "harps://[::1]:13502"),
        ("harps://10.1.2.3", "harps://10.1.2.3:3502"),
        ("unix:/run/other", "unix:/run/other"),
    ],
)
def test_place_is_a_name_a_url_or_a_path(place, address):
    assert shown(place) == f"<HarpCaller {address}>"


def test_user_of_a_url_goes_with_the_password():
    rpc = harp.HarpCaller("harps://panel@web01", password="geheim")
    assert repr(rpc) == "<HarpCaller harps://panel@web01:3502>"
    assert rpc._settings.password == "geheim"


def test_argument_comes_before_environment_before_file(client_file, monkeypatch):
    client_file('url = "harp://file"\n')
    assert shown() == "<HarpCaller file:3502>"
    monkeypatch.setenv(settings.URL_VARIABLE, "harp://environment")
    assert shown() == "<HarpCaller environment:3502>"
    assert shown("argument") == "<HarpCaller argument:3502>"


def test_file_says_all_that_arguments_can(client_file, tmp_path):
    (tmp_path / "password").write_text("geheim\nnext line\n")
    client_file(
        f'url = "harps://web01"\nuser = "panel"\ncert_sha256 = "{PIN}"\n'
        f'password_file = "{tmp_path}/password"\nretry_for = 7\nreply_timeout = 2.5\n'
    )
    found = harp.HarpCaller(retry_for=1)._settings
    assert (found.user, found.password) == ("panel", "geheim")
    assert found.timeouts["reply_timeout"] == 2.5
    assert found.timeouts["connect_timeout"] == settings.TIMEOUTS["connect_timeout"]
    assert found.timeouts["retry_for"] == 1  # what is given comes first


def test_password_of_the_file_goes_to_the_dispatcher_of_the_file_only(
    client_file, tmp_path, monkeypatch
):
    (tmp_path / "password").write_text("geheim\n")
    client_file(f'user = "panel"\npassword_file = "{tmp_path}/password"\n')
    assert harp.HarpCaller()._settings.password == "geheim"
    assert harp.HarpCaller("harps://web01")._settings.password is None
    monkeypatch.setenv(settings.URL_VARIABLE, "harps://web01")
    assert harp.HarpCaller()._settings.password is None


@pytest.mark.parametrize(
    "arguments, options, fault",
    [
        (["harp://"], {}, "no URL"),
        (["http://web01"], {}, "no URL"),
        (["harp://web01:99999"], {}, "65535"),
        (["harps://panel:geheim@web01"], {}, "must hold no password"),
        (["unix:client"], {}, "absolute"),
        (["harp://web01"], {"user": "a", "password": "b"}, "over TLS only"),
        (["localhost"], {"user": "a"}, "password or password_file is missing"),
        (["localhost"], {"password": "geheim"}, "user is missing"),
        (["harps://a"], {"ca_file": "x", "cert_sha256": PIN}, "exclude each other"),
        (["harps://a"], {"cert_sha256": "abc"}, "no SHA-256"),
        (["harp://a"], {"ca_file": "x"}, "use harps://"),
        (["a"], {"retry_for": -1}, "retry_for must not be negative"),
        (["a"], {"connect_timeout": 1e300}, "connect_timeout must not be"),
        (["a"], {"reply_timeout": "5"}, "reply_timeout must be a number"),
    ],
)
def test_what_makes_no_sense_is_a_value_error(arguments, options, fault):
    with pytest.raises(ValueError, match=fault) as caught:
        harp.HarpCaller(*arguments, **options)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "text, fault",
    [
        ("url = ", "is not TOML"),
        ("url = " + "[" * 5000, "is not TOML: nested too deep"),
        ("url = 5", "url: must be a string"),
        ('url = "http://web01"', "no URL"),
        ('password = "geheim"', "'password': unknown key"),
        ('retry_for = "long"', "retry_for must be a number"),
        ('user = "panel"', "password or password_file is missing"),
    ],
)
def test_fault_of_the_file_names_file_and_key(client_file, tmp_path, text, fault):
    client_file(text)
    with pytest.raises(harp.ConfigurationError) as caught:
        harp.HarpCaller()
    assert f"{tmp_path}/client.toml: " in str(caught.value)
    assert fault in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "client.toml").write_bytes(b'url = "\xff"')
    with pytest.raises(harp.ConfigurationError, match="client.toml: is not TOML"):
        harp.HarpCaller()


def test_file_that_can_not_be_read_is_named_if_it_is_there(tmp_path):
    (tmp_path / "client.toml").mkdir()
    with pytest.raises(harp.ConfigurationError, match="client.toml: can't be read"):
        harp.HarpCaller()


def test_file_in_a_closed_directory_is_not_for_us(run_python):
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # which is closed
        told = run_python(
            "import os, harp; from harp import settings\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            f"settings.CLIENT_FILE = '{directory}/client.toml'\n"
            "print(harp.HarpCaller())"
        )
    assert told == "<HarpCaller unix:/run/harpcaller/client>\n"


def test_fault_of_the_environment_names_the_variable(monkeypatch):
    monkeypatch.setenv(settings.URL_VARIABLE, "harp://panel:geheim@web01")
    with pytest.raises(harp.ConfigurationError, match="^HARPCALLER_URL: ") as caught:
        harp.HarpCaller()
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "\n", b"\xff\n"])
def test_password_file_without_a_password_is_named(tmp_path, content):
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(harp.ConfigurationError, match=f"{path}: password_file"):
        harp.HarpCaller("localhost", user="panel", password_file=path)


def test_client_that_needs_no_file_reads_none(run_python):
    loaded = run_python(
        "import harp, sys; harp.HarpCaller('localhost');"
        "print('tomllib' in sys.modules, 'ssl' in sys.modules)"
    )
    assert loaded.split() == ["False", "False"]


# --- what is said when nobody is there ----------------------------------------------


def test_refused_port_says_how_to_connect():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        rpc = harp.HarpCaller(*bound.getsockname(), retry_for=0)
        with pytest.raises(harp.ConnectFailed, match=r"HarpCaller\(\) finds it"):
            rpc.web01.uptime()


def test_missing_socket_says_what_to_look_at(tmp_path):
    rpc = harp.HarpCaller(f"unix:{tmp_path}/client", retry_for=0)
    with pytest.raises(harp.ConnectFailed, match="is the dispatcher running"):
        rpc.web01.uptime()


def test_socket_of_others_names_the_group(run_python):
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    # Where a stranger can get to.
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        path = f"{directory}/client"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            told = []
            for group in ("daemon", "root"):
                os.chown(path, 0, grp.getgrnam(group).gr_gid)
                os.chmod(path, 0o660)
                told.append(run_python(STRANGER.format(path=path)))
    assert "group 'daemon'" in told[0]
    assert "usermod -aG daemon USER" in told[0]
    assert "Permission denied" in told[1]
    assert "usermod" not in told[1]


STRANGER = """
import os, grp, harp
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try: harp.HarpCaller("unix:{path}").web01.uptime()
except harp.ConnectFailed as error: print(error)
"""


# --- TLS and authentication ---------------------------------------------------------


def serve_one(requests):
    def serve(connection):
        request = connection.readline()
        if request:
            requests.append(json.loads(request))
            connection.send(b'{"queues": []}\n')

    return serve


@pytest.mark.parametrize("trust", ["ca_file", "cert_sha256"])
def test_verified_dispatcher_gets_user_and_password(scripted_peer, certificate, trust):
    requests: list[dict] = []
    peer = scripted_peer(serve_one(requests), tls=True)
    options = {
        "ca_file": {"ca_file": certificate.certificate},
        "cert_sha256": {"cert_sha256": certificate.sha256},
    }[trust]
    url = f"harps://panel@127.0.0.1:{peer.address[1]}"
    with harp.HarpCaller(url, password="geheim", **options) as rpc:
        assert rpc.queues() == []
    assert requests == [
        {
            "harpcaller": 1,
            "list_queues": True,
            "auth": {"user": "panel", "password": "geheim"},
        }
    ]


def test_dispatcher_that_nothing_vouches_for_gets_no_password(
    scripted_peer, server_context
):
    received = []

    def serve(connection):
        try:
            with server_context.wrap_socket(connection.sock, server_side=True) as tls:
                received.append(tls.recv(65536))
        except OSError:
            pass  # the client has broken off

    peer = scripted_peer(serve)
    for options in ({}, {"cert_sha256": PIN}):
        rpc = harp.HarpCaller(
            f"harps://panel@127.0.0.1:{peer.address[1]}", password="geheim", **options
        )
        with pytest.raises(harp.CommunicationError, match="certificate"):
            rpc.queues()
    assert b"".join(received) == b""


def test_user_is_said_in_the_first_request_of_a_connection_only(scripted_peer):
    requests = []

    def serve(connection):
        while request := connection.readline():
            requests.append(json.loads(request))
            connection.send(b'{"queues": []}\n')

    peer = scripted_peer(serve)
    with harp.HarpCaller(*peer.address, user="panel", password="geheim") as rpc:
        rpc.queues()
        rpc.queues()
    assert ["auth" in request for request in requests] == [True, False]


def test_real_dispatcher_is_reached_by_tls_and_password(make_servers, certificate):
    digest = hashlib.sha256(b"geheim").hexdigest()
    servers = make_servers(
        dispatcher={
            "listen": [{"address": "127.0.0.1:0", "tls": True}],
            "tls": {"certificate": certificate.certificate, "key": certificate.key},
            "users": {"panel": f"sha256:{digest}"},
        }
    )
    url = f"harps://panel@localhost:{servers.dispatcher_address[1]}"
    for trust in (
        {"ca_file": certificate.certificate},
        {"cert_sha256": certificate.sha256},
    ):
        with harp.HarpCaller(url, password="geheim", **trust) as rpc:
            job = rpc.localhost.add(1, 2)
            assert job.get(timeout=30) == 3
            assert job.status()["submitted_by"] == "panel"
        with harp.HarpCaller(url, password="falsch", **trust) as rpc:
            with pytest.raises(harp.AccessDenied):
                rpc.localhost.add(1, 2)


def test_queues_come_in_parts_and_are_all_returned(scripted_peer):
    requests = []
    names = [{"q": 1}, {"q": 2}]

    def serve(connection):
        while request := connection.readline():
            requests.append(json.loads(request)["list_queues"])
            name = names[len(requests) - 1]
            reply = {"queues": [{"name": name}]}
            if name is not names[-1]:
                reply["next"] = name
            connection.send(json.dumps(reply).encode() + b"\n")

    peer = scripted_peer(serve)
    with harp.HarpCaller(*peer.address) as rpc:
        assert [queue["name"] for queue in rpc.queues()] == names
    assert requests == [True, {"after": names[0]}]
