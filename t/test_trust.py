"""Whether a host is who it should be: doc/protocol.rst, "Trust"."""

import concurrent.futures
import contextlib
import itertools
import json
import shutil
import socket
import ssl
import subprocess
import time

import peers
import pytest
from harp import certificate as certificates
from harp import config, testing, wire
from harp.dispatcher import knowncerts
from harp.dispatcher.hostlines import Host
from harp.dispatcher.trust import NotTrusted, Trust, handshake_fault

DAY = 86400
WRONG = "0" * 64


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another certificate for the same names."""
    return testing.make_certificate(tmp_path_factory.mktemp("other"))


@pytest.fixture
def present(request):
    """``present(certificate)`` starts a server that presents it and takes what comes;
    returns its address. ``present.received`` is what came."""

    def start(certificate, first=lambda connection: None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.certificate, certificate.key)

        def script(connection):
            with contextlib.suppress(OSError):
                first(connection)
                with context.wrap_socket(connection.sock, server_side=True) as sock:
                    start.received.append(sock.recv(100))

        peer = peers.ScriptedPeer(script)
        request.addfinalizer(peer.stop)
        start.peer = peer
        return peer.address

    start.received = []
    return start


def make_trust(now=time.time, **settings):
    return Trust(configuration(**settings), now)


def configuration(**settings):
    table = {key: str(value) for key, value in settings.items()}
    return config.check({"trust": table}, config.DispatcherConfig, "test")


def connect(trust, address, wakers=(), **host):
    """Connect as the dispatcher does; raises if the host isn't trusted."""
    known = Host("localhost", *address, "harp", "sesame", None, "localhost")
    deadline = time.monotonic() + 30
    connection = wire.connect(socket.AF_INET, address, 1000, deadline, wakers)
    with contextlib.closing(connection):
        trust.start_tls(connection, known._replace(**host), deadline)


def refusal(trust, address, **host):
    with pytest.raises(NotTrusted) as refused:
        connect(trust, address, **host)
    return str(refused.value)


def replace(path, text):
    """Replace a file so that it is seen to have changed."""
    new = path.with_name("new")
    new.write_text(text)
    new.rename(path)


# --- who decides --------------------------------------------------------------------


@pytest.mark.parametrize("verify", ["required", "none"])
def test_first_that_speaks_of_a_host_decides_alone(
    present, certificate, other, tmp_path, verify
):
    address = present(certificate)
    known = tmp_path / "known"
    pins = {True: certificate.sha256, False: WRONG, None: None}
    for pin, line, authority in itertools.product((True, False, None), repeat=3):
        settings = {"verify": verify}
        if line is not None:
            known.write_text(f"localhost {pins[line]}\n")
            settings["known_certs_file"] = known
        if authority is not None:
            settings["ca_file"] = (certificate if authority else other).certificate
        host = {"cert_sha256": pins[pin]}
        verdicts = [one for one in (pin, line, authority) if one is not None]
        if verdicts[0] if verdicts else verify == "none":
            connect(make_trust(**settings), address, **host)
        else:
            refusal(make_trust(**settings), address, **host)
    assert not any(present.received)


def test_host_can_not_pass_for_another(present, certificate, other, tmp_path):
    known = tmp_path / "known"
    known.write_text(f"web01 {certificate.sha256}\nweb02 {other.sha256}\n")
    trust = make_trust(known_certs_file=known)
    address = present(certificate)
    connect(trust, address, hostname="web01")
    assert other.sha256 in refusal(trust, address, hostname="web02")
    assert "nothing vouches" in refusal(trust, address, hostname="web03")


def test_host_may_have_several_certificates(present, certificate, other, tmp_path):
    known = tmp_path / "known"
    known.write_text(
        f"# of both\nlocalhost {WRONG}\n\nlocalhost {certificate.sha256}  # the new\n"
    )
    trust = make_trust(known_certs_file=known)
    connect(trust, present(certificate))
    text = refusal(trust, present(other))
    assert f"{WRONG} or {certificate.sha256}" in text or (
        f"{certificate.sha256} or {WRONG}" in text
    )


# --- files that change --------------------------------------------------------------


def test_known_certificates_are_read_again_when_they_change(
    present, certificate, tmp_path, caplog
):
    address, known = present(certificate), tmp_path / "known"
    known.write_text("")
    trust = make_trust(known_certs_file=known)
    refusal(trust, address)
    replace(known, f"localhost {certificate.sha256}\n")
    connect(trust, address)
    known.unlink()
    connect(trust, address)
    connect(trust, address)
    assert caplog.text.count("what it held before counts") == 1
    replace(known, "localhost\nlocalhost x\n")
    refusal(trust, address)
    assert '"line": 1' in caplog.text and '"line": 2' in caplog.text


def test_authorities_are_read_again_when_they_change(
    present, certificate, other, tmp_path, caplog
):
    address, file = present(certificate), tmp_path / "ca.pem"
    shutil.copy(other.certificate, file)
    trust = make_trust(ca_file=file)
    refusal(trust, address)
    replace(file, certificate.certificate.read_text())
    connect(trust, address)
    replace(file, "garbage")
    connect(trust, address)
    connect(trust, address)
    assert caplog.text.count("what it held before counts") == 1
    assert f'"path": "{file}", "error": "no certificates in it, PEM"' in caplog.text
    replace(file, other.certificate.read_text())
    refusal(trust, address)


def test_other_configuration_counts_if_its_files_can_be_used(
    present, certificate, tmp_path
):
    address = present(certificate)
    trust = make_trust(ca_file=certificate.certificate)
    with pytest.raises(config.ConfigError, match="missing: No such file"):
        trust.prepare(configuration(known_certs_file=tmp_path / "missing"))
    connect(trust, address)
    files = trust.prepare(configuration())
    connect(trust, address)
    trust.apply(files)
    refusal(trust, address)


# --- what is told -------------------------------------------------------------------


def test_error_tells_what_was_presented_and_expected(
    present, certificate, other, tmp_path
):
    shown = certificates.describe(
        ssl.PEM_cert_to_DER_cert(certificate.certificate.read_text())
    )
    address = present(certificate)
    assert refusal(make_trust(), address, cert_sha256=WRONG) == (
        f"host localhost presented {shown}; expected was {WRONG} (cert_sha256 in the "
        "registry)"
    )
    known = tmp_path / "known"
    known.write_text(f"localhost {WRONG}\n")
    assert refusal(make_trust(known_certs_file=known), address).endswith(
        f"expected was {WRONG} (trust.known_certs_file)"
    )
    text = refusal(make_trust(ca_file=other.certificate), address)
    assert text.startswith(f"host localhost presented {shown}; expected was one for ")
    assert f"by an authority in {other.certificate} (trust.ca_file): " in text
    trust = make_trust(ca_file=certificate.certificate)
    text = refusal(trust, address, tls_name="web01")
    assert shown in text and "expected was one for web01 " in text
    assert text.endswith("it is for another name")
    text = refusal(trust, address, tls_name="127.0.0.2")
    assert text.endswith("it is for another address")
    assert not any(present.received)


def test_second_look_at_a_certificate_works_with_ipv6(certificate, other):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 on this machine")

    def serve():
        for _ in range(2):
            sock, _ = listener.accept()
            with contextlib.suppress(OSError), context.wrap_socket(sock, True) as tls:
                tls.recv(1)

    with listener, concurrent.futures.ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        deadline = time.monotonic() + 30
        connection = wire.connect(
            socket.AF_INET6, listener.getsockname(), 1000, deadline
        )
        with contextlib.closing(connection):
            host = Host("localhost", "::1", 1, "harp", "sesame", None, "localhost")
            with pytest.raises(NotTrusted, match=certificate.sha256):
                trust = make_trust(ca_file=other.certificate)
                trust.start_tls(connection, host, deadline)
        served.result(30)


def test_expired_certificate_is_called_so(present, tmp_path):
    made = testing.make_certificate(tmp_path)
    subprocess.run(
        ["openssl", "x509", "-in", made.certificate, "-signkey", made.key]
        + ["-days", "-1", "-out", tmp_path / "expired.pem"],
        check=True,
        capture_output=True,
    )
    (tmp_path / "expired.pem").rename(made.certificate)
    address = present(made)
    assert "has expired" in refusal(make_trust(ca_file=made.certificate), address)


def test_error_comes_also_if_the_host_can_not_be_asked_again(
    present, certificate, other
):
    def once(connection):
        if present.peer.connections > 1:
            raise ConnectionResetError

    address = present(certificate, once)
    text = refusal(make_trust(ca_file=other.certificate), address)
    assert "presented a certificate that is not trusted; expected was one for" in text


def test_stop_ends_the_second_look_at_a_certificate(present, certificate, other):
    waker = wire.Waker()

    def stall_second(connection):
        if present.peer.connections > 1:
            waker.wake()
            connection.read_to_end()

    address = present(certificate, stall_second)
    with contextlib.closing(waker), pytest.raises(wire.Woken):
        connect(make_trust(ca_file=other.certificate), address, (waker,))


def test_peer_without_tls_is_called_so(scripted_peer):
    peer = scripted_peer(lambda connection: connection.send(b"HTTP/1.1 400 No\r\n\r\n"))
    with pytest.raises(ssl.SSLError) as failed:
        connect(make_trust(verify="none"), peer.address)
    assert handshake_fault(failed.value) == "doesn't speak TLS"


# --- dates --------------------------------------------------------------------------


@pytest.fixture
def end(certificate):
    """When the certificate ends."""
    return certificates.parse_certificate(
        ssl.PEM_cert_to_DER_cert(certificate.certificate.read_text())
    ).not_after


@pytest.fixture
def warnings(caplog):
    """``warnings()`` returns those of certificates that end, since the last time."""

    def take():
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return [text for text in found if text.startswith("certificate")]

    return take


def test_certificate_that_ends_soon_is_logged_once_a_day(
    present, certificate, fake_clock, end, warnings
):
    address, pinned = present(certificate), {"cert_sha256": certificate.sha256}
    trust = make_trust(fake_clock, expiry_warning="30d")
    fake_clock.now = end - 31 * DAY
    connect(trust, address, **pinned)
    assert not warnings() and not trust.expiring()
    fake_clock.now = end - 30 * DAY
    for host in ("web01", "web01", "web02"):
        connect(trust, address, hostname=host, **pinned)
    first, second = warnings()
    text, _, rest = first.partition(" {")
    assert text == "certificate is about to expire"
    assert json.loads("{" + rest) == {
        "host": "web01",
        "ends": certificates.date(end),
        "subject": "CN=localhost",
        "sha256": certificate.sha256,
    }
    assert trust.expiring() == {"web01": end, "web02": end}
    fake_clock.advance(DAY - 1)
    connect(trust, address, hostname="web01", **pinned)
    assert not warnings()
    fake_clock.advance(1)
    connect(trust, address, hostname="web01", **pinned)
    assert len(warnings()) == 1


def test_expired_certificate_that_is_pinned_is_trusted_and_logged(
    present, certificate, fake_clock, end, warnings
):
    fake_clock.now = end + 1
    trust = make_trust(fake_clock)
    connect(trust, present(certificate), cert_sha256=certificate.sha256)
    [text] = warnings()
    assert text.startswith("certificate has expired, and is trusted because it is pinn")


def test_certificate_that_an_authority_vouches_for_is_logged_too(
    present, certificate, fake_clock, end, warnings
):
    fake_clock.now = end - DAY
    trust = make_trust(fake_clock, ca_file=certificate.certificate)
    connect(trust, present(certificate))
    assert len(warnings()) == 1


def test_new_certificate_ends_the_warnings(
    present, certificate, fake_clock, end, warnings, tmp_path
):
    long = testing.make_certificate(tmp_path)
    subprocess.run(
        ["openssl", "x509", "-in", long.certificate, "-signkey", long.key]
        + ["-days", "9999", "-out", tmp_path / "long.pem"],
        check=True,
        capture_output=True,
    )
    (tmp_path / "long.pem").rename(long.certificate)
    fake_clock.now = end - DAY
    trust = make_trust(fake_clock, verify="none")
    connect(trust, present(certificate))
    assert trust.expiring()
    connect(trust, present(long))
    assert not trust.expiring()
    assert len(warnings()) == 1


# --- lines of known certificates ----------------------------------------------------


@pytest.mark.parametrize(
    ("line", "remark"),
    [
        (f"web01 {WRONG}", ""),
        (f"  web01\t{WRONG.upper()}  \r", ""),
        (f"web01 {WRONG} # since # today ", "since # today"),
    ],
)
def test_line_of_a_known_certificate_is_read(line, remark):
    known = knowncerts.parse_line(line)
    assert known == ("web01", WRONG, remark)
    assert knowncerts.parse_line(knowncerts.build_line(known)) == known


@pytest.mark.parametrize("line", ["", "  ", "# web01 " + WRONG])
def test_line_may_be_a_remark(line):
    assert knowncerts.parse_line(line) is None


@pytest.mark.parametrize("line", ["web01", "web01 x", f"web01 {WRONG} y", WRONG])
def test_line_that_is_none_is_refused(line):
    with pytest.raises(ValueError):
        knowncerts.parse_line(line)
