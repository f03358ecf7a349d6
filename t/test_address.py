"""Where a server listens."""

import pytest

from harp.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:4306", Address("127.0.0.1", 4306)),
        ("web01.example.com:0", Address("web01.example.com", 0)),
        ("*:65535", Address("*", 65535)),
        ("[::]:4306", Address("::", 4306)),
        ("[fe80::1%eth0]:4306", Address("fe80::1%eth0", 4306)),
        ("unix:/run/harpcaller/client", Address(None, 0, "/run/harpcaller/client")),
        ("unix:/a b:c", Address(None, 0, "/a b:c")),
    ],
)
def test_address_is_parsed_and_written_as_the_same(text, address):
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "host"), [("web01", "web01"), ("[::1]", "::1"), ("10.0.0.1", "10.0.0.1")]
)
def test_port_may_be_left_out_where_there_is_a_default(text, host):
    assert parse_address(text, default_port=3502) == Address(host, 3502)
    assert parse_address(f"{text}:1", default_port=3502) == Address(host, 1)
    with pytest.raises(ValueError, match="is no address"):
        parse_address(text)


@pytest.mark.parametrize(
    "text",
    ["", ":", ":4306", "web01:", "web01:x", "web01:-1", "web01:65536", "web01:123456",
     "::1:4306", "[::1", "[]:1", "web01:80 ", "web01:٣", "unix:", "unix:relative",
     "web01:80\n", "http://web01:80"],
)  # fmt: skip
@pytest.mark.parametrize("default_port", [None, 3502])
def test_what_is_no_address_is_an_error_that_shows_it(text, default_port):
    with pytest.raises(ValueError) as caught:
        parse_address(text, default_port)
    assert repr(text) in str(caught.value)
