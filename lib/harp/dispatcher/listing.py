"""The jobs that a panel asks for: by filters, newest first, in bounded time."""

from __future__ import annotations

import time
from collections.abc import Iterator

from .. import jobid, protocol, wire
from ..errors import Refusal
from .disk import StorageError
from .jobs import Jobs
from .reading import Reading

_SECONDS = 1.0
_BYTES = 4 * 1024 * 1024
_DEFAULT_LIMIT = 100


def list_jobs(jobs: Jobs, filters: dict) -> dict:
    """Return the reply to ``list_jobs``.

    :param filters: as the protocol checked them
    """
    deadline = time.monotonic() + _SECONDS
    limit = filters.get("limit", _DEFAULT_LIMIT)
    matches = _matcher(filters)
    found: list[dict] = []
    size = 0
    last = None
    for job_id in _candidates(jobs, filters):
        if len(found) >= limit or size >= _BYTES or time.monotonic() >= deadline:
            return protocol.build_job_list(found, last)
        last = job_id
        status = _status(jobs, job_id)
        if status is not None and matches(status):
            found.append(protocol.cut_arguments(status))
            size += len(wire.encode(found[-1]))
    return protocol.build_job_list(found, None)


def _candidates(jobs: Jobs, filters: dict) -> Iterator[str]:
    before = filters.get("before")
    if "ids" in filters:
        ids = sorted(set(filter(jobid.is_valid, filters["ids"])), reverse=True)
        return (job_id for job_id in ids if before is None or job_id < before)
    return jobs.ids(before if jobid.is_valid(before) else None)


def _status(jobs: Jobs, job_id: str) -> dict | None:
    """A job's status, None if it is gone or can't be read."""
    try:
        job, reader = jobs.open(job_id)
        with reader:
            return Reading(job, reader).status()
    except (Refusal, StorageError):
        return None


def _matcher(filters: dict):
    queue = filters.get("queue")
    wanted = {
        key: filters[key]
        for key in ("host", "procedure", "state", "outcome", "group", "submitted_by")
        if key in filters
    }
    earliest = filters.get("from", float("-inf"))
    latest = filters.get("to", float("inf"))
    queue_name = None if queue is None else protocol.canonical(queue)

    def matches(status: dict) -> bool:
        summary = protocol.summary_of(status)
        return (
            all(summary[key] == value for key, value in wanted.items())
            and earliest <= summary["submit"] <= latest
            and queue_name in (None, summary["queue"])
        )

    return matches
