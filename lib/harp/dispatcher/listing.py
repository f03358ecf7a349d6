"""The jobs and queues that a panel asks for: in bounded size, however many there are.
Jobs by filters, newest first, in bounded time. No index: the ids tell when they were
made, so that only files of the right time are looked at, and most of those that don't
match are told from their bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator

from .. import jobid, protocol, wire
from ..errors import INVALID_REQUEST, Refusal
from .disk import StorageError
from .jobfile import Record
from .jobs import Jobs
from .queues import QueueState
from .reading import Reading
from .submission import REPEAT_SECONDS

_SECONDS = 1.0
_BYTES = 4 * 1024 * 1024
_QUEUE_BYTES = 130  # that a queue takes beside its name
_DEFAULT_LIMIT = 100


MaySee = Callable[[Record], bool]
"""Tells whether whoever asks may know of a job."""


def list_jobs(
    jobs: Jobs,
    request: protocol.ListJobs,
    secret_names: Collection[str] = (),
    may_see: MaySee | None = None,
) -> dict:
    """Return the reply to ``list_jobs``.

    :param may_see: which jobs there are for the asker; None: all. Where it goes on
        names none of the others, nor tells, but for the time that it took, that there
        are any
    :param secret_names: of arguments to mask beside those that calls name
    :raises Refusal: ``invalid_request`` if it is to go on from what is no job id
    :raises StorageError: if the jobs can't be listed
    """
    deadline = time.monotonic() + _SECONDS
    limit = request.limit or _DEFAULT_LIMIT
    texts = [wire.encode(text)[:-1] for text in request.texts]
    found: list[dict] = []
    size = 0
    last = last_found = None
    for job_id in _candidates(jobs, request):
        is_full = len(found) >= limit or size >= _BYTES
        # At least one is looked at, or the next request would look no further.
        if last is not None:
            if may_see is None:
                if is_full or time.monotonic() >= deadline:
                    return protocol.build_job_list(found, last)
            elif time.monotonic() >= deadline:
                return protocol.build_job_list(found, jobid.between(job_id, last))
        last = job_id
        status = _status(jobs, job_id, request, texts, secret_names, may_see)
        if status is not None and request.matches(status):
            if is_full:
                return protocol.build_job_list(found, last_found)
            last_found = job_id
            found.append(protocol.cut_arguments(status))
            size += len(wire.encode(found[-1]))
    return protocol.build_job_list(found, None)


def list_queues(
    states: Collection[QueueState],
    request: protocol.ListQueues,
    allow: Callable[[str], bool],
    exists: Callable[[str], bool],
) -> dict:
    """Return the reply to ``list_queues``: in the order of their canonical names.

    :param allow: called with such a name; tells whether the asker may know of it
    :param exists: called with a job's id; tells whether the asker may know of it
    """
    after = "" if request.after is None else protocol.canonical(request.after)
    found: list[dict] = []
    size = 0
    for key, *counts, oldest in sorted(states):
        if key <= after or not allow(key):
            continue
        if size >= _BYTES:
            return protocol.build_queue_list(found, name)
        name = wire.decode(key.encode())
        if oldest is not None and not exists(oldest):
            oldest = None
        found.append(protocol.build_queue_entry(name, *counts, oldest))
        size += len(key) + _QUEUE_BYTES
    return protocol.build_queue_list(found)


def _candidates(jobs: Jobs, request: protocol.ListJobs) -> Iterator[str]:
    before = request.before
    if before is not None and not jobid.is_valid(before):
        raise Refusal(INVALID_REQUEST, '"list_jobs.before" is not a job id')
    if request.ids is not None:
        ids = sorted(set(filter(jobid.is_valid, request.ids)), reverse=True)
        return (job_id for job_id in ids if before is None or job_id < before)
    since, until = request.since, request.until
    if since is None and jobid.is_valid(request.group):
        # Made for its jobs, and so before them.
        since = jobid.time_of(request.group)
    # An id's time is its client's, and may be off by so much from the submission.
    least = "" if since is None else jobid.least(since - REPEAT_SECONDS)
    if until is not None:
        end = jobid.least(until + REPEAT_SECONDS + 1)
        before = end if before is None else min(before, end)
    return jobs.ids(before, least, ended=request.state in (None, protocol.DONE))


def _status(
    jobs: Jobs,
    job_id: str,
    request: protocol.ListJobs,
    texts: list[bytes],
    secret_names: Collection[str],
    may_see: MaySee | None,
) -> dict | None:
    """A job's status; None if it is gone, can't be read, or is plainly not wanted or
    not there for the asker."""
    try:
        job, reader = jobs.open(job_id)
        with reader:
            if job is not None and request.state not in (None, job.status()[0]):
                return None
            if not reader.record_holds(texts):
                return None
            if may_see is not None and not may_see(reader.record()):
                return None
            return Reading(job, reader).status(secret_names)
    except (Refusal, StorageError):
        return None
