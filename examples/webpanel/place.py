"""Lets ``import`` find what is in this directory, and the library in a checkout."""

import sys
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit(
        "webpanel: needs Python 3.11 or later, and this is %d.%d: install that "
        "(Debian 12 or later: apt-get install python3; RHEL 9: dnf install python3.11)"
        % sys.version_info[:2]
    )

_HERE = Path(__file__).resolve().parent
_LIB = _HERE.parent.parent / "lib"

if (_LIB / "harp").is_dir() and str(_LIB) not in sys.path:
    sys.path.insert(0, str(_LIB))
if str(_HERE) not in sys.path:
    sys.path.insert(0, str(_HERE))
