"""The directive ``config-keys``: the keys of a configuration file's section, made from
the table that the daemons check the file against (``harp.config``)."""

from __future__ import annotations

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from harp import config, template

_UNITS = {"s": "in seconds", "bytes": "in bytes", "": None}


def rows_of(table: str, section: str) -> list[config.Key]:
    """Return the rows of a section.

    :param table: name of a table in ``harp.config``
    :param section: its name; empty: the keys above all sections
    """
    return [
        row
        for name, (_, row) in config.keys(getattr(config, table)).items()
        if section_of(row) == section
    ]


def section_of(row: config.Key) -> str:
    return row.name if template.is_table(row) else row.name.rpartition(".")[0]


class ConfigKeys(SphinxDirective):
    """``.. config-keys:: DaemonConfig`` with the option ``:section:``."""

    required_arguments = 1
    option_spec = {"section": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        rows = rows_of(self.arguments[0], self.options.get("section", ""))
        if not rows:
            raise self.error("there are no such keys")
        found = nodes.definition_list("", *map(_entry, rows))
        # What is quoted is to be pasted.
        found["support_smartquotes"] = False
        self.env.note_dependency(config.table.__file__)
        return [found]


def _entry(row: config.Key) -> nodes.definition_list_item:
    name = row.name if template.is_table(row) else row.name.rpartition(".")[2]
    definition = nodes.definition("", nodes.paragraph("", _sentence(row.meaning)))
    definition += nodes.paragraph("", "", *_value(row))
    if row.reason:
        definition += nodes.paragraph("", _sentence(f"Why: {row.reason}"))
    if lines := template.example(row):
        definition += nodes.literal_block("", "\n".join(lines), language="toml")
    anchor = nodes.make_id(f"key {row.name}")
    term = nodes.term("", "", nodes.literal("", name), ids=[anchor])
    return nodes.definition_list_item("", term, definition)


def _value(row: config.Key) -> list[nodes.Node]:
    """What can stand there, and what counts if nothing does."""
    text = ", ".join(filter(None, [row.kind.text, _UNITS[row.unit]]))
    found: list[nodes.Node] = [nodes.emphasis("", text)]
    if row.default is None or template.is_table(row):
        found.append(nodes.Text("; not set by default."))
    else:
        found.append(nodes.Text("; default "))
        found.append(nodes.literal("", template.to_toml(row.default)))
        found.append(nodes.Text("."))
    if row.at_start:
        found.append(nodes.Text(" A start applies it, a reload does not."))
    return found


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("config-keys", ConfigKeys)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
