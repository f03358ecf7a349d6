"""HarpCaller: calls procedures on remote machines and keeps their results.

The names of the client library and of procedures files. No server code is imported
here, and nothing that a short command-line call would wait for.
"""

from .calls import Poll, RemoteCall
from .client import HarpCaller, RemoteProcedure, RemoteServer
from .errors import (
    AccessDenied,
    CancelledException,
    CommunicationError,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    HarpException,
    NoSuchCall,
    RemoteError,
    RemoteException,
    ReplyTimeout,
    RequestRefused,
    SubmissionLost,
    Unavailable,
)
from .outcome import CALL_CANCELLED, CALL_NOT_FINISHED
from .proc import (
    Context,
    Procedure,
    ProcedureError,
    Result,
    StreamingProcedure,
    procedure,
    streaming_procedure,
)
from .secret import Secret
from .streams import StreamIterator

__version__ = "1.0"

# For type checkers only, which know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .direct import HarpProcedure, HarpServer, HarpStreamIterator
    from .groups import Group, RemoteProcedures, RemoteServers

__all__ = [
    "AccessDenied",
    "CALL_CANCELLED",
    "CALL_NOT_FINISHED",
    "CancelledException",
    "CommunicationError",
    "ConfigurationError",
    "ConnectFailed",
    "ConnectionLost",
    "Context",
    "Group",
    "HarpCaller",
    "HarpException",
    "HarpProcedure",
    "HarpServer",
    "HarpStreamIterator",
    "NoSuchCall",
    "Poll",
    "Procedure",
    "ProcedureError",
    "RemoteCall",
    "RemoteError",
    "RemoteException",
    "RemoteProcedure",
    "RemoteProcedures",
    "RemoteServer",
    "RemoteServers",
    "ReplyTimeout",
    "RequestRefused",
    "Result",
    "Secret",
    "StreamIterator",
    "StreamingProcedure",
    "SubmissionLost",
    "Unavailable",
    "procedure",
    "streaming_procedure",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    # Here, because most programs need none of them.
    if name in ("Group", "RemoteProcedures", "RemoteServers"):
        from . import groups

        return getattr(groups, name)
    if name in ("HarpProcedure", "HarpServer", "HarpStreamIterator"):
        from . import direct

        return getattr(direct, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
