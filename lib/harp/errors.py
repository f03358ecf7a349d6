"""Everything that can go wrong: the exceptions a program may catch, the error types of
the wire (doc/protocol.rst, "Error types"), and how the system's errors are told."""

from __future__ import annotations

import errno

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

ERROR_TYPES = frozenset(
    (PARSE_ERROR, INVALID_PROTOCOL, INVALID_REQUEST, AUTH_ERROR, NO_SUCH_PROCEDURE)
    + (PROCEDURE_LOADING_ERROR, INVALID_ARGUMENT_LIST, SYSTEM_ERROR, OVERLOADED)
    + (TIMEOUT, INVALID_RESULT, PROCESS_DIED, SHUTDOWN, INVALID_JOBID, STORAGE_ERROR)
    + (UNKNOWN_HOST, NETWORK_ERROR, CERTIFICATE_ERROR, PROTOCOL_ERROR, OS_ERROR)
    + (MISSING_RESULT,)
)


class HarpException(Exception):
    """Root of what the client library raises."""


class ConfigurationError(HarpException):
    """Raised when a file that says how to connect, or one that it names, is at fault:
    names the file and the key."""


class CommunicationError(HarpException):
    """Raised when the dispatcher or daemon can't be reached, goes away before its
    reply is whole, or replies with something that isn't the protocol."""


class ConnectFailed(CommunicationError):
    """Raised when there is no connection: nothing was sent. Whether it helps to try
    again, ``is_temporary`` guesses.

    :ivar is_temporary: False if somebody must change something first: rights, a name
    """

    def __init__(self, message: str, is_temporary: bool = True) -> None:
        super().__init__(message)
        self.args = (message, is_temporary)
        self.is_temporary = is_temporary

    def __str__(self) -> str:
        return self.args[0]


class ConnectionLost(CommunicationError):
    """Raised when the connection broke before the reply was whole: what was sent may
    have arrived or not."""


class ReplyTimeout(CommunicationError):
    """Raised when no reply came in time."""


class SubmissionLost(CommunicationError):
    """Raised when a call was sent, again and again, and no reply came: whether it was
    accepted is unknown.

    :ivar job_id: its id if it was; ``rpc.job(job_id)`` tells later
    """

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.args = (message, job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return self.args[0]


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


class RequestRefused(RemoteError):
    """Raised when the dispatcher refuses a request: this says nothing about how a call
    ended."""


class NoSuchCall(RequestRefused):
    """Raised when the dispatcher has no call of that id, or none that this client may
    see: it was never there, or is too old (``invalid_jobid``)."""


class AccessDenied(RequestRefused):
    """Raised when the dispatcher doesn't let this client do that, or doesn't know it
    (``auth_error``)."""


class Unavailable(RequestRefused):
    """Raised when the dispatcher can't do it now and may be asked again later: it
    stops, is overloaded, or has no room (``shutdown``, ``overloaded``,
    ``storage_error``)."""


def refused(type: str, message: str, data: object = None) -> RequestRefused:
    """Return the exception for a dispatcher's refusal."""
    kinds = {
        INVALID_JOBID: NoSuchCall,
        AUTH_ERROR: AccessDenied,
        SHUTDOWN: Unavailable,
        OVERLOADED: Unavailable,
        STORAGE_ERROR: Unavailable,
    }
    return kinds.get(type, RequestRefused)(type, message, data)


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


def reason(error: OSError) -> str:
    """Say in words why the system refused, with the file if there is one."""
    text = error.strerror or str(error) or errno.errorcode.get(error.errno, "")
    return f"{error.filename}: {text}" if error.filename else text
