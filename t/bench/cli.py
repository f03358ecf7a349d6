"""How long the command takes until it knows what it is asked for, beside a bare Python
that loads what no such command can do without; and what ``import harp`` adds to the
start of a program."""

import statistics
import subprocess
import sys
import time

from figures import HERE, report

_ROUNDS = 5
_TIMES = 9  # in a round
_FLOOR = [sys.executable, "-c", "import argparse, json, socket"]
_EMPTY = [sys.executable, "-c", ""]
_IMPORT = [
    *_EMPTY[:2],
    f"import sys; sys.path.insert(0, {str(HERE.parents[1] / 'lib')!r}); import harp",
]
_COMMAND = [sys.executable, str(HERE.parents[1] / "bin" / "harpcaller")]
# The last word is wrong, which is found after all that is loaded at the start.
_WORDS = {
    "version": ["version"],
    "call": ["call", "web01", "uptime", "--timeout", "0"],
    "list": ["list", "--limit", "0"],
}


def main():
    commands = {name: [*_COMMAND, *words] for name, words in _WORDS.items()}
    commands |= {"floor": _FLOOR, "empty": _EMPTY, "import": _IMPORT}
    times = {name: [] for name in commands}
    for _ in range(_ROUNDS):
        found = {name: [] for name in commands}
        for _ in range(_TIMES):  # in turns: what slows one down slows down the others
            for name, command in commands.items():
                found[name].append(1000 * seconds(command))
        for name in commands:
            times[name].append(statistics.median(found[name]))
    for name in _WORDS:
        report(
            f"cli, start of {name}",
            "ms",
            times[name],
            times["floor"],
            "bare Python",
            "ratio below 1.6",
        )
    report("cli, import harp", "ms", times["import"], times["empty"], "empty program")


def seconds(command):
    begin = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
