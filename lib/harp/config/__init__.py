"""Configuration files: :mod:`.table` has their reading, :mod:`.daemon` and
:mod:`.dispatcher` the keys of each, with type, unit, default and meaning."""

from .daemon import DaemonConfig
from .dispatcher import DispatcherConfig
from .table import ConfigError, Key, check, keys, load

__all__ = [
    "ConfigError",
    "DaemonConfig",
    "DispatcherConfig",
    "Key",
    "check",
    "keys",
    "load",
]
