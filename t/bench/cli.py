"""How long the command takes until it knows what it is asked for, beside a bare Python
that loads what no such command can do without."""

import statistics
import subprocess
import sys
import time

from figures import HERE, report

_ROUNDS = 5
_TIMES = 9  # in a round
_FLOOR = [sys.executable, "-c", "import argparse, json, socket"]
_COMMAND = [sys.executable, str(HERE.parents[1] / "bin" / "harpcaller")]
# The last word is wrong, which is found after all that is loaded at the start.
_WORDS = {
    "version": ["version"],
    "call": ["call", "web01", "uptime", "--timeout", "0"],
    "list": ["list", "--limit", "0"],
}


def main():
    floors = []
    ours = {name: [] for name in _WORDS}
    for _ in range(_ROUNDS):
        found = {name: [] for name in (None, *_WORDS)}
        for _ in range(_TIMES):  # in turns: what slows one down slows down the others
            found[None].append(seconds(_FLOOR))
            for name, words in _WORDS.items():
                found[name].append(seconds([*_COMMAND, *words]))
        floors.append(1000 * statistics.median(found[None]))
        for name in _WORDS:
            ours[name].append(1000 * statistics.median(found[name]))
    for name in _WORDS:
        report(
            f"cli, start of {name}",
            "ms",
            ours[name],
            floors,
            "bare Python",
            "ratio below 1.6",
        )


def seconds(command):
    begin = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
