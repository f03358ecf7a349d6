"""Installs HarpCaller: ``pip install .``

Single files of the commands, which need no installation, are made by sbin/harp-pyz.
"""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "setup.py: HarpCaller needs Python 3.11 or later, and this is %d.%d: install "
        "one (Debian 12 or later: apt-get install python3; RHEL 9: dnf install "
        "python3.11), and run this with it" % sys.version_info[:2]
    )

import os
import re
import shutil
import subprocess
from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build import build
from setuptools.command.build_py import build_py

TOP = Path(__file__).resolve().parent


def version() -> str:
    """Return the version, which is written down in the package only."""
    text = (TOP / "lib" / "harp" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]


class BuildPackage(build_py):
    """Adds the procedures of the demo, which are an example as well."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # there it finds the example itself
            shutil.copyfile(TOP / "examples" / "procedures.py", self._copy())

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), self._copy()]

    def _copy(self) -> str:
        return str(Path(self.build_lib) / "harp" / "cli" / "demo_procedures.py")


class BuildManPages(Command):
    """Makes the man pages from doc/, to be installed beside the commands."""

    description = "build the man pages"
    user_options = [("build-base=", "b", "base directory of the build")]

    def initialize_options(self) -> None:
        self.build_base = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_base", "build_base"))

    def run(self) -> None:
        directory = Path(self.build_base) / "man"
        shutil.rmtree(directory, ignore_errors=True)
        # Not in this process, in which sphinx would change much.
        subprocess.run(
            [sys.executable, "-m", "sphinx", "-q", "-b", "man"]
            + ["-d", str(Path(self.build_base) / "doctrees")]
            + [str(TOP / "doc"), str(directory)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
        )
        sections: dict[str, list[str]] = {}
        for page in sorted(directory.glob("*.[1-8]")):
            sections.setdefault(f"share/man/man{page.suffix[1:]}", []).append(str(page))
        self.distribution.data_files = list(sections.items())


class Build(build):
    """Builds the man pages too."""

    sub_commands = [*build.sub_commands, ("build_man", None)]


setup(
    name="harpcaller",
    version=version(),
    description="Calls procedures on remote machines and keeps their results",
    long_description=(TOP / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The HarpCaller authors",
    license="MIT",
    classifiers=[
        "Environment :: No Input/Output (Daemon)",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: System :: Distributed Computing",
        "Topic :: System :: Systems Administration",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    # Of the build only, for the man pages; what is installed needs Python alone.
    setup_requires=["sphinx"],
    package_dir={"": "lib"},
    packages=[
        ".".join(path.parent.relative_to(TOP / "lib").parts)
        for path in sorted((TOP / "lib" / "harp").rglob("__init__.py"))
    ],
    package_data={"harp": ["py.typed"]},
    scripts=["bin/harpcaller", "sbin/harpcallerd", "sbin/harpd"],
    cmdclass={"build": Build, "build_man": BuildManPages, "build_py": BuildPackage},
    # Those that a wheel has left behind begin with a line that is good there alone.
    options={"build_scripts": {"force": True}},
)
