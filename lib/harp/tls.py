"""Whom a client trusts: a server's certificate, verified before anything is said to it.
``ssl`` is imported when it is first needed, because it would double the time of
``import harp``."""

from __future__ import annotations

import os
import re

from .channel import Channel
from .errors import ConfigurationError


class Trust:
    """What a server's certificate must be: by the system's authorities and the name
    unless asked for otherwise. May be shared by threads.

    :param name: expected in the certificate
    :param ca_file: file of the authorities to trust instead of the system's, PEM
    :param cert_sha256: fingerprint of the server's own certificate, in hex, with or
        without colons: this very certificate is trusted, and no other, whatever name is
        in it
    :raises ValueError: for a fingerprint that is none, or one beside ``ca_file``
    """

    def __init__(
        self,
        name: str,
        ca_file: str | os.PathLike | None = None,
        cert_sha256: str | None = None,
    ) -> None:
        if cert_sha256 is not None:
            cert_sha256 = cert_sha256.replace(":", "").lower()
            if not re.fullmatch("[0-9a-f]{64}", cert_sha256):
                raise ValueError("cert_sha256 is no SHA-256 in hex")
            if ca_file is not None:
                raise ValueError("ca_file and cert_sha256 exclude each other")
        self._name = name
        self._ca_file = ca_file
        self._cert_sha256 = cert_sha256
        self._context = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_context": None}

    def load(self) -> None:
        """Read what there is to read. To be called before :meth:`secure`, so that a
        file at fault is found before connecting.

        :raises ConfigurationError: if it can't be used
        """
        if self._context is None:
            self._context = self._make_context()

    def secure(self, channel: Channel, deadline: float) -> None:
        """Do the TLS handshake and make sure that the server is the one.

        :param deadline: on the monotonic clock
        :raises CommunicationError: if it isn't, or the handshake fails
        """
        sock = channel.start_tls(self._context, self._name, deadline)
        if self._cert_sha256 is not None:
            self._check_pin(channel, sock.getpeercert(binary_form=True))

    def _make_context(self):
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._cert_sha256 is not None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # _check_pin does it
        elif self._ca_file is not None:
            try:
                context.load_verify_locations(self._ca_file)
            except OSError as error:
                text = f"{self._ca_file}: not usable as ca_file: {error}"
                raise ConfigurationError(text) from None
        else:
            context.load_default_certs()
        return context

    def _check_pin(self, channel: Channel, certificate: bytes) -> None:
        import hashlib

        found = hashlib.sha256(certificate).hexdigest()
        if found != self._cert_sha256:
            raise channel.error(f"certificate is not the pinned one, but {found}")
