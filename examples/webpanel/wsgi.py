"""The panel as a WSGI server wants it: ``wsgi:application``, with the settings that the
environment's WEBPANEL_SETTINGS names, else those of /etc/harpcaller/webpanel.toml."""

import place  # noqa: F401  finds the library
from webpanel import settings
from webpanel.app import Panel

application = Panel(settings.find())
