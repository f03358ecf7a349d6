"""Another world for programs that a test starts: code that Python runs as it starts
them, to change what they are told by the system."""

import os


def run_at_start(code, directory, monkeypatch):
    """Let each Python program that is started from now on, by this test, run ``code``
    first.

    :param directory: a new one, for the code
    """
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(directory), prepend=os.pathsep)


class Switch:
    """A number that started programs read from a file while they run.

    :ivar path: of the file
    """

    def __init__(self, path):
        self.path = path
        self.set(0)

    def set(self, number):
        new = self.path.with_name(f"{self.path.name}.new")
        new.write_text(str(number))
        new.rename(self.path)
