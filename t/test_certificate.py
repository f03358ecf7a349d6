"""What a certificate says, compared with what the openssl command says of it."""

import calendar
import hashlib
import random
import ssl
import subprocess
import time

import pytest
from harp.certificate import (
    Certificate,
    date,
    describe,
    fingerprint,
    parse_certificate,
    parse_fingerprint,
)

PIN = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """``make(*options)`` returns a self-signed certificate, PEM and DER."""
    key = tmp_path_factory.mktemp("keys") / "key.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-out", key]
        + ["-pkeyopt", "ec_paramgen_curve:prime256v1"],
        check=True,
        capture_output=True,
    )

    def run(*options, subject="/CN=web01"):
        made = subprocess.run(
            ["openssl", "req", "-x509", "-new", "-key", key, "-subj", subject]
            + ["-utf8", *options],
            check=True,
            capture_output=True,
            text=True,
        )
        return made.stdout, ssl.PEM_cert_to_DER_cert(made.stdout)

    return run


def ask_openssl(pem, *options):
    asked = subprocess.run(
        ["openssl", "x509", "-noout", *options],
        check=True,
        input=pem,
        capture_output=True,
        text=True,
    )
    return asked.stdout.strip()


def openssl_time(pem, option):
    text = ask_openssl(pem, option).partition("=")[2]
    return calendar.timegm(time.strptime(text, "%b %d %H:%M:%S %Y GMT"))


def test_all_fields_are_read(make):
    pem, encoded = make(
        "-days",
        "30",
        "-addext",
        "subjectAltName=DNS:web01,email:x@web01,DNS:*.example.org,"
        "IP:10.8.0.1,IP:fe80::1",
        subject="/C=DE/O=Example, Ltd/OU=Hosts/CN=web01.example.org",
    )
    found = parse_certificate(encoded)
    assert found == Certificate(
        sha256=hashlib.sha256(encoded).hexdigest(),
        subject="C=DE, O=Example, Ltd, OU=Hosts, CN=web01.example.org",
        issuer="C=DE, O=Example, Ltd, OU=Hosts, CN=web01.example.org",
        names=("web01", "*.example.org", "10.8.0.1", "fe80::1"),
        not_before=openssl_time(pem, "-startdate"),
        not_after=openssl_time(pem, "-enddate"),
    )
    printed = ask_openssl(pem, "-fingerprint", "-sha256").partition("=")[2]
    assert parse_fingerprint(printed) == found.sha256 == fingerprint(encoded)


# From 2050 on, certificates write their times with four digits of the year.
@pytest.mark.parametrize("days", [1, 3650, 8400, 8700, 365 * 100, 365 * 1000])
def test_dates_are_read_in_both_forms(make, days):
    pem, encoded = make("-days", str(days))
    assert parse_certificate(encoded).not_after == openssl_time(pem, "-enddate")


def test_certificate_without_names_and_extensions_is_read(make, tmp_path):
    config = tmp_path / "config"
    config.write_text("[req]\ndistinguished_name = names\n[names]\n")
    _, encoded = make("-config", str(config), subject="/")
    found = parse_certificate(encoded)
    assert (found.subject, found.issuer, found.names) == ("", "", ())


def test_names_in_other_alphabets_and_attributes_without_a_name_are_read(make):
    _, encoded = make(subject="/CN=Zürich 東京/serialNumber=5")
    assert parse_certificate(encoded).subject == "CN=Zürich 東京, 2.5.4.5=5"


def test_rsa_certificate_of_an_authority_is_read(tmp_path):
    def openssl(*arguments):
        subprocess.run(
            ["openssl", *arguments], check=True, cwd=tmp_path, capture_output=True
        )

    for name in ("ca", "web"):
        openssl(
            *"req -newkey rsa:2048 -nodes -keyout".split(), f"{name}.key",
            "-subj", f"/CN={name}", "-out", f"{name}.csr",
        )  # fmt: skip
    openssl(*"x509 -req -in ca.csr -signkey ca.key -out ca.pem".split())
    openssl(
        *"x509 -req -in web.csr -CA ca.pem -CAkey ca.key -CAcreateserial".split(),
        *"-out web.pem".split(),
    )
    pem = (tmp_path / "web.pem").read_text()
    found = parse_certificate(ssl.PEM_cert_to_DER_cert(pem))
    assert (found.subject, found.issuer) == ("CN=web", "CN=ca")


def test_what_is_no_certificate_is_refused_at_any_length(make):
    _, encoded = make("-addext", "subjectAltName=DNS:web01")
    for length in range(len(encoded)):
        with pytest.raises(ValueError):
            parse_certificate(encoded[:length])
    with pytest.raises(ValueError):
        parse_certificate(encoded + b"\0")


def test_damaged_certificate_is_read_or_refused_and_nothing_else(make):
    _, encoded = make("-addext", "subjectAltName=DNS:web01,IP:10.0.0.1")
    chance = random.Random(5)
    for _ in range(3000):
        damaged = bytearray(encoded)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            parse_certificate(bytes(damaged))
        except ValueError:
            pass
        assert fingerprint(bytes(damaged)) in describe(bytes(damaged))


def test_description_tells_names_dates_and_fingerprint(make):
    _, encoded = make("-days", "9", "-addext", "subjectAltName=DNS:a,DNS:b")
    found = parse_certificate(encoded)
    assert describe(encoded) == (
        "one for a b (subject CN=web01; issuer CN=web01; "
        f"{date(found.not_before)} to {date(found.not_after)}; SHA-256 {found.sha256})"
    )


def test_description_stays_short_whatever_is_described(make):
    names = ",".join(f"DNS:{number:060}" for number in range(100))
    _, encoded = make("-addext", f"subjectAltName={names}")
    assert len(describe(encoded)) < 1000
    assert describe(b"garbage").startswith("one that can't be read, SHA-256 ")
    assert describe(b"") == "no certificate"


@pytest.mark.parametrize(
    "text", [PIN, PIN.upper(), ":".join(PIN[n : n + 2] for n in range(0, 64, 2))]
)
def test_fingerprint_may_be_written_as_openssl_does(text):
    assert parse_fingerprint(text) == PIN


@pytest.mark.parametrize("text", ["", PIN[1:], PIN + "0", "g" * 64, "sha256:" + PIN])
def test_what_is_no_fingerprint_is_refused(text):
    with pytest.raises(ValueError, match="64 hex digits"):
        parse_fingerprint(text)
