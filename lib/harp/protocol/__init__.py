"""Every message of both protocols: built and parsed here, and nowhere else are their
keys spelled. Pure functions; the text that they follow is doc/protocol.rst. The modules
are a part of the text each; who speaks needs this one only, beside ``admin``,
``hostadmin`` and ``queueadmin`` at the admin socket; ``explain`` and ``listed`` are for
who shows what a reply says."""

from .parts import (  # noqa: F401
    CANCELLED,
    CLIENT_PORT,
    DAEMON_PORT,
    DONE,
    ERROR,
    EXCEPTION,
    FAILURES,
    MAX_CONCURRENCY,
    MAX_SECONDS,
    OUTCOMES,
    QUEUED,
    RAN,
    RAN_MAYBE,
    RAN_NO,
    RAN_YES,
    RESULT,
    RUNNING,
    STATES,
    End,
    canonical,
    field,
    optional,
)
from .replies import (  # noqa: F401
    END_PREFIXES,
    PACKET_PREFIX,
    Packet,
    Reached,
    Status,
    build_cancelled,
    build_continue,
    build_end,
    build_host_entry,
    build_host_list,
    build_host_procedures,
    build_job_id,
    build_job_list,
    build_no_result,
    build_packet,
    build_queue_entry,
    build_queue_list,
    build_refusal,
    build_status,
    cut_arguments,
    daemon_refusal,
    error_end,
    host_name,
    keep_procedures,
    packets_of,
    parse_call_of_status,
    parse_cancelled,
    parse_end,
    parse_explain,
    parse_host_list,
    parse_host_procedures,
    parse_job_entry,
    parse_job_id,
    parse_job_list,
    parse_queue_list,
    parse_reached,
    parse_reply_end,
    parse_result_reply,
    parse_status,
    parse_stream_reply,
    refusal_of,
    with_ran,
)
from .requests import (  # noqa: F401
    LIST_LIMIT,
    Call,
    Queue,
    build_call,
    build_cancel,
    build_explain,
    build_follow_stream,
    build_get_result,
    build_get_status,
    build_list_host_procedures,
    build_list_hosts,
    build_list_jobs,
    build_list_queues,
    build_read_stream,
    masked_arguments,
    with_auth,
)

# What clients of a dispatcher don't need would take a part of the time that ``import
# harp`` may; it is loaded when it is asked for. Type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .asked import (  # noqa: F401
        Auth,
        Cancel,
        Explain,
        FollowStream,
        GetResult,
        GetStatus,
        ListHostProcedures,
        ListHosts,
        ListJobs,
        ListQueues,
        ReadStream,
        parse_auth,
        parse_request,
    )
    from .daemon import (  # noqa: F401
        ACKNOWLEDGEMENT_PREFIX,
        MAX_PREFIX,
        STREAM_PREFIX,
        Acknowledgement,
        DaemonCall,
        ListProcedures,
        ProcedureList,
        StreamValue,
        build_acknowledgement,
        build_daemon_call,
        build_daemon_error,
        build_exception,
        build_list_procedures,
        build_procedure,
        build_procedure_list,
        build_result,
        build_stream,
        daemon_end,
        parse_daemon_call,
        parse_daemon_message,
        parse_daemon_request,
        parse_procedure_list,
    )

_ASKED = frozenset(
    """
    Auth Cancel Explain FollowStream GetResult
    GetStatus ListHostProcedures ListHosts ListJobs ListQueues
    ReadStream parse_auth parse_request
    """.split()
)
_DAEMON = frozenset(
    """
    ACKNOWLEDGEMENT_PREFIX MAX_PREFIX STREAM_PREFIX Acknowledgement
    DaemonCall ListProcedures ProcedureList StreamValue
    build_acknowledgement build_daemon_call build_daemon_error build_exception
    build_list_procedures build_procedure build_procedure_list build_result
    build_stream daemon_end parse_daemon_call parse_daemon_message
    parse_daemon_request parse_procedure_list
    """.split()
)


def __getattr__(name: str) -> object:
    if name in _ASKED:
        from . import asked as module
    elif name in _DAEMON:
        from . import daemon as module
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(module, name)  # it is asked for once
    return found
