"""The configuration files in examples/, made from the tables of keys. They keep what is
written above the first key and the values that are set in them::

    PYTHONPATH=lib python3 t/example_configurations.py    # writes them anew
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from harp import config, template

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TABLES = {
    "harpd.toml": config.DaemonConfig,
    "harpcaller.toml": config.DispatcherConfig,
}


def anew(name: str) -> str:
    """Return what an example should hold."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    head, _, _ = text.partition("\n\n")
    content = tomllib.loads(text)
    values = {}
    for key in config.keys(TABLES[name]):
        value = content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            values[key] = value
    return template.configuration(TABLES[name], head + "\n", values, explained=True)


if __name__ == "__main__":
    for name in TABLES:
        new = anew(name)
        (EXAMPLES / name).write_text(new, encoding="utf-8")
