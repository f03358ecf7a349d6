"""harpd. Three kinds of process: the front (front.py), which speaks with callers; the
spawner (spawner.py), which forks and kills; and the calls (runner.py)."""

# Now and not when it is first needed: a call's process may not be allowed to read it.
from ..protocol import daemon as _  # noqa: F401
