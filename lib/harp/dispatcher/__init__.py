"""harpcallerd: what the dispatcher's process does."""

# Now and not when they are first needed, with no descriptor left maybe.
from ..protocol import asked as _, daemon as __  # noqa: F401
