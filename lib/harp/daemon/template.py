"""The files that ``harpd setup`` begins with."""

from __future__ import annotations

from collections.abc import Mapping

from .. import template
from ..config import DaemonConfig

PASSWORDS = """\
# Who may call: a line NAME:sha256:HEX or NAME:scrypt:... for each, written by
# "harpd passwd". Several lines of one name are all valid. No restart is needed.
"""

PROCEDURES = '''\
"""What may be called on this machine. After a change: harpd reload."""

from harp import Result, procedure, streaming_procedure  # noqa: F401

# @procedure(timeout=10)
# def uptime():
#     with open("/proc/uptime") as file:
#         return float(file.read().split()[0])
'''

_HEAD = """\
# harpd's configuration. What is commented out is the default, if there is one; "harpd
# -t" checks it, "harpd reload" applies a change.
"""


def configuration(values: Mapping[str, object]) -> str:
    """Return harpd's configuration file.

    :param values: keys that are set, by their names
    """
    return template.configuration(DaemonConfig, _HEAD, values)
