"""The jobs that a panel asks for: by filters, newest first, in bounded time."""

from __future__ import annotations

import time
from collections.abc import Iterator

from .. import jobid, protocol, wire
from ..errors import INVALID_REQUEST, Refusal
from .disk import StorageError
from .jobs import Jobs
from .reading import Reading

_SECONDS = 1.0
_BYTES = 4 * 1024 * 1024
_DEFAULT_LIMIT = 100


def list_jobs(jobs: Jobs, request: protocol.ListJobs) -> dict:
    """Return the reply to ``list_jobs``.

    :raises Refusal: ``invalid_request`` if it is to go on from what is no job id
    :raises StorageError: if the jobs can't be listed
    """
    deadline = time.monotonic() + _SECONDS
    limit = request.limit or _DEFAULT_LIMIT
    found: list[dict] = []
    size = 0
    last = None
    for job_id in _candidates(jobs, request):
        # At least one is looked at, or the next request would look no further.
        if last is not None and (
            len(found) >= limit or size >= _BYTES or time.monotonic() >= deadline
        ):
            return protocol.build_job_list(found, last)
        last = job_id
        status = _status(jobs, job_id)
        if status is not None and request.matches(status):
            found.append(protocol.cut_arguments(status))
            size += len(wire.encode(found[-1]))
    return protocol.build_job_list(found, None)


def _candidates(jobs: Jobs, request: protocol.ListJobs) -> Iterator[str]:
    before = request.before
    if before is not None and not jobid.is_valid(before):
        raise Refusal(INVALID_REQUEST, '"list_jobs.before" is not a job id')
    if request.ids is None:
        return jobs.ids(before)
    ids = sorted(set(filter(jobid.is_valid, request.ids)), reverse=True)
    return (job_id for job_id in ids if before is None or job_id < before)


def _status(jobs: Jobs, job_id: str) -> dict | None:
    """A job's status, None if it is gone or can't be read."""
    try:
        job, reader = jobs.open(job_id)
        with reader:
            return Reading(job, reader).status()
    except (Refusal, StorageError):
        return None
