"""How the actions of harpcallerd ask the dispatcher that runs."""

from __future__ import annotations

import harp
from harp import config


def dispatcher(settings: config.DispatcherConfig) -> harp.HarpCaller:
    """Return the dispatcher, reached over its admin socket."""
    # Whether it runs is what is asked: one that doesn't isn't waited for.
    return harp.HarpCaller(f"unix:{settings.admin_socket}", retry_for=0)


def ask(settings: config.DispatcherConfig, request: dict) -> dict:
    """Send a request and return the reply.

    :raises harp.CommunicationError: if the dispatcher isn't reached
    :raises harp.RemoteError: if it refuses
    """
    return dispatcher(settings).request(request)
