"""HarpCaller: calls procedures on remote machines and keeps their results.

The names of the client library and of procedures files. No server code is imported
here, and nothing that a short command-line call would wait for.
"""

from .client import (
    CALL_CANCELLED,
    CALL_NOT_FINISHED,
    HarpCaller,
    RemoteCall,
    RemoteProcedure,
    RemoteServer,
    StreamIterator,
)
from .direct import HarpProcedure, HarpServer, HarpStreamIterator
from .errors import (
    CancelledException,
    CommunicationError,
    HarpException,
    RemoteError,
    RemoteException,
)
from .proc import (
    Context,
    Procedure,
    ProcedureError,
    Result,
    StreamingProcedure,
    procedure,
    streaming_procedure,
)

__version__ = "1.0"

__all__ = [
    "CALL_CANCELLED",
    "CALL_NOT_FINISHED",
    "CancelledException",
    "CommunicationError",
    "Context",
    "HarpCaller",
    "HarpException",
    "HarpProcedure",
    "HarpServer",
    "HarpStreamIterator",
    "Procedure",
    "ProcedureError",
    "RemoteCall",
    "RemoteError",
    "RemoteException",
    "RemoteProcedure",
    "RemoteServer",
    "Result",
    "StreamIterator",
    "StreamingProcedure",
    "procedure",
    "streaming_procedure",
]
