"""Compare two commits on the fixed searches of `fixed_searches.py`: losses, masks, weights and results, to the bit.

    python tools/compare_commits.py OLD [NEW] [--only REGEX] [--expect REGEX]

For a change that must not change what is computed. Each commit is checked out into a folder of its own, and both run at
once, one thread each, with the packages of the Python that runs this; NEW left out is the working tree as it stands.
What NEW adds (a JSON key, a file) is listed and is no difference; nor is one that `--expect` matches, such as
'info/json/(digest|bytes)' after a change of the ticket's format. Exit status: 0 equal, 1 different, 2 could not run.
About a minute on two free cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SEARCHES = Path(__file__).with_name("fixed_searches.py")
SHOWN = 6
"""Differences of one search that are printed; of the others, how many there are."""


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def end_on_signals() -> None:
    """SIGTERM and SIGHUP end the program as Ctrl-C does, so that the folders of the commits are removed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: sys.exit(128 + got))


def checked_out(commit: str | None, folder: Path) -> Path:
    """The tree of a commit, in a clone that shares the objects of this one; of None, the working tree."""
    if commit is None:
        return ROOT
    exact = git("rev-parse", "--verify", f"{commit}^{{commit}}")
    git("clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(folder))
    git("-C", str(folder), "checkout", "--quiet", "--detach", exact)
    return folder


def environment(tree: Path) -> dict[str, str]:
    """What makes Python import the package of this tree, on one thread, and write nothing into it."""
    here = {"PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    return os.environ | here | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def start(tree: Path, folder: Path, only: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, str(SEARCHES), str(folder), "--only", only]
    return subprocess.Popen(words, env=environment(tree), stdout=subprocess.DEVNULL)


def results(process: subprocess.Popen[bytes], tree: Path, folder: Path) -> dict[str, Any]:
    if process.wait():
        raise SystemExit(2)
    kept = json.loads((folder / "kept.json").read_text(encoding="utf-8"))
    if Path(kept["package"]) != tree / "src" / "tombola":
        print(f"{kept['package']} was imported instead of {tree / 'src'}", file=sys.stderr)
        raise SystemExit(2)
    searches: dict[str, Any] = kept["searches"]
    return searches


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Path and text of every value within; floats in full, so that equal texts are equal bits."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, f"{path}/{key}")
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    else:
        yield path.lstrip("/"), json.dumps(value)


def change(old: str, new: str | None) -> str:
    """Both texts from shortly before where they begin to differ."""
    if new is None:
        return f"{old[:70]} -> gone"
    same = next(
        (i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), min(len(old), len(new))
    )
    begin = max(same - 20, 0) if same > 50 else 0
    return f"{old[begin : begin + 70]} -> {new[begin : begin + 70]}"


def differences(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Of one search: what differs or is gone, and what was added."""
    before, after = dict(leaves(old)), dict(leaves(new))
    differ = [f"{path}: {change(text, after.get(path))}" for path, text in before.items() if after.get(path) != text]
    added = sorted({re.sub(r"\[\d+\]", "[]", path) for path in after.keys() - before.keys()})
    return differ, added


def compare(old: dict[str, Any], new: dict[str, Any], expect: str = "$^") -> bool:
    """Print search by search; True if all are equal but for SEARCH/PATH that `expect` matches."""
    equal = True
    for name in old:
        every, added = differences(old[name], new.get(name, {}))
        differ = [line for line in every if not re.match(expect, f"{name}/{line}")]
        failed = "error" in old[name]
        equal &= not differ and not failed
        verdict = f"{len(differ)} differ" if differ else "fails in both" if failed else "equal"
        verdict += f", {len(every) - len(differ)} differ as expected" if len(every) > len(differ) else ""
        print(f"{name:34} {len(dict(leaves(old[name]))):5} values  {verdict}")
        shown = differ or ([old[name]["error"]] if failed else [])
        for line in shown[:SHOWN]:
            print(f"    {line}")
        if added:
            print(f"    added: {', '.join(added[:SHOWN])}{' ...' if len(added) > SHOWN else ''}")
    return equal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", help="a commit")
    parser.add_argument("new", nargs="?", help="a commit; left out: the working tree as it stands")
    parser.add_argument("--only", default="", help="a regular expression for the names of the searches to run")
    parser.add_argument("--expect", default="$^", help="a regular expression for SEARCH/PATH that may differ")
    args = parser.parse_args()
    end_on_signals()
    with tempfile.TemporaryDirectory(prefix="compare-commits-") as name, contextlib.ExitStack() as stack:
        base = Path(name).resolve()
        trees = [checked_out(commit, base / side) for side, commit in zip("ab", (args.old, args.new), strict=True)]
        folders = [base / "runs-a", base / "runs-b"]
        processes = [start(tree, folder, args.only) for tree, folder in zip(trees, folders, strict=True)]
        for process in processes:
            stack.callback(process.kill)
        old, new = map(results, processes, trees, folders)
        equal = compare(old, new, args.expect)
    expected = "" if args.expect == "$^" else ", but for what was expected"
    print(f"equal to the bit{expected}" if equal else "DIFFERENT")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
