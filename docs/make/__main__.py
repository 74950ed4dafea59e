"""Puts the documentation's tables, numbers and figures in line with docs/results: `python docs/make [--check]`.

With `--check` nothing is written, and the exit status is 1 where a page or a figure disagrees with the results or a
public name has no docstring.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import everything
import figures
from pages import ROOT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where something disagrees")
    check = parser.parse_args().check

    def write(path: Path, text: str) -> None:
        if not check:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")

    faults = everything.faults(write)
    if not check:
        figures.draw()
    faults = [fault for fault in faults if check or not fault.fixable]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
