"""The examples of the client's guide, doc/client.rst, are run."""

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
import textwrap

import pytest
from harp import settings, testing

from conftest import TOP

GUIDE = (TOP / "doc" / "client.rst").read_text(encoding="utf-8")


def block(name: str) -> str:
    """A block of code of the guide."""
    (found,) = re.findall(
        rf"^\.\. code-block:: \w+\n   :name: {name}\n\n((?:   .*\n|\n)+)", GUIDE, re.M
    )
    return textwrap.dedent(found)


@pytest.fixture
def guided(tmp_path, monkeypatch):
    """The daemons that the guide speaks of, where it looks for them."""
    procedures = tmp_path / "procedures.py"
    procedures.write_text(block("procedures"))
    hosts = ["web01", "web02", "db-1.example.net"]
    with testing.Servers(procedures, tmp_path / "servers", hosts=hosts) as servers:
        address = "harp://%s:%d" % servers.dispatcher_address
        monkeypatch.setenv(settings.URL_VARIABLE, address)
        yield servers


def test_examples_of_the_guide_are_true(guided):
    names: dict = {}
    exec(block("asyncio"), names)
    test = doctest.DocTestParser().get_doctest(GUIDE, names, "client.rst", None, 0)
    assert len(test.examples) > 25
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=options | doctest.REPORT_NDIFF)
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        result = runner.run(test, out=told.write, clear_globs=False)
    test.globs["rpc"].close()
    assert result.failed == 0, told.getvalue()


def test_fixture_of_the_guide_works(tmp_path):
    (tmp_path / "procedures.py").write_text(block("procedures"))
    (tmp_path / "test_sum.py").write_text(block("fixture"))
    (tmp_path / "pytest.ini").touch()
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "1 passed" in process.stdout, process.stdout + process.stderr


def test_client_file_of_the_guide_is_understood(tmp_path, monkeypatch):
    (text,) = re.findall(r"code-block:: toml\n\n((?:   .*\n)+)", GUIDE)
    text = textwrap.dedent(text)
    (tmp_path / "password").write_text("geheim\n")
    text = text.replace("/etc/harpcaller/client.password", f"{tmp_path}/password")
    (tmp_path / "client.toml").write_text(text)
    monkeypatch.setattr(settings, "CLIENT_FILE", str(tmp_path / "client.toml"))
    found = settings.find(None, 1, {})
    assert str(found) == "harps://panel@dispatcher.example.net:1"
    assert found.timeouts == settings.TIMEOUTS
