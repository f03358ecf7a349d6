"""Settings of the documentation's build: ``sphinx-build -W -n doc doc/_build``."""

import os
import sys

sys.path.insert(0, os.path.abspath("../lib"))

import harp  # noqa: E402

project = "HarpCaller"
author = "The HarpCaller authors"
copyright = f"2026, {author}"
release = version = harp.__version__

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
man_pages = [
    ("cli", "harpcaller", "call procedures on remote machines", author, 1),
    ("errors", "harpcaller", "types of errors, and what to do", author, 7),
]
autodoc_member_order = "bysource"

# The standard library's own names, which are described elsewhere.
nitpick_ignore_regex = [
    ("py:class", r"(os|pathlib|types|collections\.abc)\..*"),
    ("py:class", "Path"),
]
