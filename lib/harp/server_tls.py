"""TLS as our servers speak it: one context for the life of a certificate."""

from __future__ import annotations

import ssl
import time

from . import wire
from .config import ConfigError
from .errors import INVALID_PROTOCOL, Refusal, reason


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return what a server's handshakes need.

    :param certificate: file, PEM: the ``tls.certificate`` of the configuration
    :param key: file, PEM: its ``tls.key``
    :raises ConfigError: if they can't be used
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A peer may close its sending side and read on. Without this, OpenSSL answers with
    # an alert if no TLS goodbye came before, and the peer can't wait until all is gone.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    context.num_tickets = 0  # nobody resumes a session; each ticket costs a write
    faults = []
    for path, name in ((certificate, "tls.certificate"), (key, "tls.key")):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            faults.append(f"{name}: {reason(error)}")
    if faults:
        raise ConfigError(faults)
    try:
        # Without a password OpenSSL would ask the terminal for that of a key.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        text = getattr(error, "reason", None) or error
        raise ConfigError(
            [f"tls: certificate {certificate} and key {key} can't be used: {text}"]
        ) from None
    return context


def shake_hands(
    connection: wire.Connection, context: ssl.SSLContext, timeout: float
) -> None:
    """Do the handshake of a connection that has come in.

    :param timeout: seconds, for all of it
    :raises Refusal: ``invalid_protocol`` if the peer doesn't speak TLS
    :raises wire.EndOfStream: if it came and went without a word
    :raises OSError: if the handshake fails, or takes too long
    :raises wire.Woken: if a waker was set; nothing can be said then
    """
    deadline = time.monotonic() + timeout
    try:
        first = connection.peek(deadline)
        if not first:
            raise wire.EndOfStream(partial=False)
        if first[0] != wire.TLS_HANDSHAKE:
            raise Refusal(INVALID_PROTOCOL, "this port speaks TLS", closes=True)
        connection.start_tls(context, None, deadline)
    except wire.DeadlineExceeded:
        raise TimeoutError("no TLS handshake in time") from None
