"""Everything that can go wrong: the exceptions a program may catch, and the error
types of the wire (doc/protocol.rst, "Error types")."""

from __future__ import annotations

# The daemon, reading a request.
PARSE_ERROR = "parse_error"
INVALID_PROTOCOL = "invalid_protocol"
INVALID_REQUEST = "invalid_request"
AUTH_ERROR = "auth_error"
# The daemon, starting a call.
NO_SUCH_PROCEDURE = "no_such_procedure"
PROCEDURE_LOADING_ERROR = "procedure_loading_error"
INVALID_ARGUMENT_LIST = "invalid_argument_list"
SYSTEM_ERROR = "system_error"
OVERLOADED = "overloaded"
# The daemon, during a call.
TIMEOUT = "timeout"
INVALID_RESULT = "invalid_result"
PROCESS_DIED = "process_died"
SHUTDOWN = "shutdown"
# The dispatcher, answering a client.
INVALID_JOBID = "invalid_jobid"
STORAGE_ERROR = "storage_error"
# The dispatcher, ending a job.
UNKNOWN_HOST = "unknown_host"
NETWORK_ERROR = "network_error"
CERTIFICATE_ERROR = "certificate_error"
PROTOCOL_ERROR = "protocol_error"
OS_ERROR = "os_error"
MISSING_RESULT = "missing_result"


class HarpException(Exception):
    """Root of what the client library raises."""


class CommunicationError(HarpException):
    """Raised when the dispatcher or daemon can't be reached, goes away before its
    reply is whole, or replies with something that isn't the protocol."""


class _RemoteFailure(HarpException):
    def __init__(self, type: str, message: str, data: object = None) -> None:
        super().__init__(type, message, data)
        self.type = type
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"


class RemoteException(_RemoteFailure):
    """Raised when the remote procedure raised an exception.

    :ivar type: name of the exception's class, or what the procedure chose
    :ivar message: its text
    :ivar data: anything JSON, None if there is none
    """


class RemoteError(_RemoteFailure):
    """Raised when a request was refused or a call could not be carried out.

    :ivar type: one of the error types above
    :ivar message: the reason, for people
    :ivar data: details for troubleshooting, None if there are none
    :ivar ran: ``"no"``: the procedure's code was not entered, safe to send again;
        ``"yes"``: it was; ``"maybe"``: unknown; None: the peer didn't say
    """

    def __init__(
        self, type: str, message: str, data: object = None, ran: str | None = None
    ) -> None:
        super().__init__(type, message, data)
        self.args = (type, message, data, ran)
        self.ran = ran


class CancelledException(HarpException):
    """Raised when the result of a cancelled call is asked for."""


class Refusal(Exception):
    """A server's refusal of a request, before it becomes an error message.

    :ivar type: one of the error types above
    :ivar message: what the peer is told
    :ivar closes: True if the connection can't go on after it
    """

    def __init__(self, type: str, message: str, closes: bool = False) -> None:
        super().__init__(type, message)
        self.type = type
        self.message = message
        self.closes = closes

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"
