"""Configuration files: :mod:`.table` has their reading, :mod:`.daemon` and
:mod:`.dispatcher` the keys of each, with type, unit, default and meaning."""

from .daemon import DaemonConfig
from .dispatcher import DispatcherConfig
from .table import ConfigError, Key, at_start, check, collect, keys, load

__all__ = [
    "ConfigError",
    "DaemonConfig",
    "DispatcherConfig",
    "Key",
    "at_start",
    "check",
    "collect",
    "keys",
    "load",
]
