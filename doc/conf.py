"""Settings of the documentation's build: ``sphinx-build -W -n doc doc/_build``."""

import os
import sys

from docutils import nodes

sys.path[:0] = [os.path.abspath("../lib"), os.path.abspath(".")]

import harp  # noqa: E402  # it has the version, and needs nothing

project = "HarpCaller"
author = "The HarpCaller authors"
copyright = f"2026, {author}"
release = version = harp.__version__

extensions = ["sphinx.ext.autodoc", "config_table"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
# Wide enough for what a terminal of 110 columns shows.
html_theme_options = {"page_width": "1200px", "body_max_width": "none"}
man_pages = [
    ("client", "harp", "call procedures on remote machines from Python", author, 3),
    ("cli", "harpcaller", "call procedures on remote machines", author, 1),
    ("errors", "harpcaller", "types of errors, and what to do", author, 7),
    ("harpd", "harpd", "run procedures on behalf of remote callers", author, 8),
    ("harpcallerd", "harpcallerd", "queue, make and record calls", author, 8),
    ("harpd.toml", "harpd.toml", "configuration of harpd", author, 5),
    ("harpcaller.toml", "harpcaller.toml", "configuration of harpcallerd", author, 5),
]
autodoc_member_order = "bysource"

# The standard library's own names, which are described elsewhere.
nitpick_ignore_regex = [
    ("py:class", r"(os|pathlib|types|collections\.abc)\..*"),
    ("py:class", "Path"),
]


def setup(app):
    app.connect("builder-inited", _leave_headings)
    app.connect("doctree-resolved", _for_man)


def _leave_headings(app):
    """Make no links of the headings on pages with a table of contents."""
    app.env.settings["toc_backlinks"] = False


def _for_man(app, doctree, docname):
    """In man pages a reference to another page is its title, without a link that leads
    nowhere; and there is no table of contents."""
    if app.builder.name != "man":
        return
    for topic in list(doctree.findall(nodes.topic)):
        if "contents" in topic["classes"]:
            topic.parent.remove(topic)
    for node in list(doctree.findall(nodes.reference)):
        if ":" not in node.get("refuri", ""):
            node.parent.replace(node, node.children)
