"""What there is to call on a host: its daemon is asked, in one of a few threads, while
the client's thread watches whether the client is still there."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable

from .. import certificate, protocol, wire
from ..errors import NETWORK_ERROR, OS_ERROR, PROTOCOL_ERROR, Refusal, reason
from .connecting import Connector, NotConnected, where
from .hostlines import Host
from .trust import presented_certificate

_AT_A_TIME = 20

_ANSWER_SECONDS = 10.0
"""For the daemon to answer, once connected: it only looks up what it has loaded."""


class Procedures:
    """Asks daemons what they offer. Called from any thread; of the questions that are
    asked at the same time, some wait for others."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._threads = concurrent.futures.ThreadPoolExecutor(
            _AT_A_TIME, thread_name_prefix="procedures"
        )

    def ask(
        self, hostname: str, wait: Callable[[concurrent.futures.Future], object]
    ) -> dict:
        """Return the reply to ``list_procedures``.

        :param wait: returns the result of a future; raises if nobody wants it any more
        :raises Refusal: of the type that a job which can't be started ends with
        """
        try:
            question = _Question(self._connector, hostname)
        except OSError as error:
            raise Refusal(OS_ERROR, reason(error)) from None
        try:
            answer = self._threads.submit(question.ask)
        except RuntimeError as error:  # no thread can be started
            # Another thread may still come upon it.
            question.abandon()
            question.close()
            raise Refusal(OS_ERROR, str(error)) from None
        answer.add_done_callback(lambda _: question.close())
        try:
            return wait(answer)
        finally:
            question.abandon()

    def stop(self) -> None:
        """To be called when nobody asks any more."""
        self._threads.shutdown(wait=True, cancel_futures=True)


class _Question:
    """A daemon that is asked."""

    def __init__(self, connector: Connector, hostname: str) -> None:
        self._connector = connector
        self._hostname = hostname
        self._waker = wire.Waker()
        self._abandoned = False

    def close(self) -> None:
        self._waker.close()

    def abandon(self) -> None:
        """Make it end soon. From another thread, also when it has."""
        self._abandoned = True
        self._waker.wake()

    def ask(self) -> dict:
        """Return the reply. Errors as for :meth:`Procedures.ask`; ``Woken`` if it was
        abandoned."""
        begin = time.monotonic()
        try:
            host = self._connector.host(self._hostname)
            connection, endpoint = self._connector.connect(
                host, self._waker, float("inf"), self._look
            )
        except NotConnected as error:
            raise Refusal(error.type, str(error)) from None
        try:
            found = _ask(connection, host)
            presented = presented_certificate(connection)
        finally:
            connection.close()
        return protocol.build_host_procedures(
            found,
            address=endpoint.address[0],
            port=endpoint.address[1],
            seconds=round(time.monotonic() - begin, 6),
            cert_sha256=certificate.fingerprint(presented),
            cert_expires=_expiry(presented),
        )

    def _look(self) -> None:
        if self._abandoned:
            raise wire.Woken


def _ask(connection: wire.Connection, host: Host) -> protocol.ProcedureList:
    deadline = time.monotonic() + _ANSWER_SECONDS
    request = protocol.ListProcedures(host.user, host.password)
    try:
        line = wire.encode(protocol.build_list_procedures(request))
        connection.send(line, deadline)
        message = wire.decode(connection.readline(deadline))
        if protocol.daemon_refusal(message) is not None:
            said = protocol.parse_daemon_message(message)
            # One that says more than that it refuses is not understood.
            if isinstance(said, protocol.End) and said.outcome == protocol.ERROR:
                text = f"{where(host)}: {said.value['message']}"
                raise _Refused(said.value["type"], text)
        return protocol.parse_procedure_list(message)
    except wire.DeadlineExceeded:
        text = f"{where(host)}: no answer in {_ANSWER_SECONDS:g} s"
        raise Refusal(NETWORK_ERROR, text) from None
    except wire.EndOfStream as end:
        text = f"{where(host)}: {end} before the answer"
        raise Refusal(NETWORK_ERROR, text) from None
    except OSError as error:
        raise Refusal(NETWORK_ERROR, f"{where(host)}: {reason(error)}") from None
    except _Refused:
        raise
    except Refusal as refusal:
        text = f"{where(host)}: {refusal.message}"
        raise Refusal(PROTOCOL_ERROR, text) from None


class _Refused(Refusal):
    """What the daemon itself says."""


def _expiry(presented: bytes) -> int | None:
    try:
        return certificate.parse_certificate(presented).not_after
    except ValueError:
        return None  # not as it should be, but the one that is trusted
