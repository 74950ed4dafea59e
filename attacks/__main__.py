"""Run attacks by name, or all: `python attacks [NAME ...] [--count N] [--seed S]`."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent


def names() -> list[str]:
    """Every attack and fuzzer, by the name of its file."""
    return sorted(file.stem for file in HERE.glob("*.py") if not file.stem.startswith("_"))


def load(name: str) -> ModuleType:
    """The module of that name in this folder; the modules may import each other."""
    if str(HERE) not in sys.path:
        sys.path.append(str(HERE))
    spec = importlib.util.spec_from_file_location(f"attacks_{name}", HERE / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, folder: Path, seed: int = 0, count: int = 50) -> None:
    """One attack or fuzzer in an empty folder; an AssertionError says that it succeeded."""
    module = load(name)
    if name.startswith("fuzz_"):
        module.fuzz(folder, seed, count)
    else:
        module.attack(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones (default: all)")
    parser.add_argument("--count", type=int, default=50, help="damaged files of each fuzzer (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the fuzzers (default: 0)")
    chosen = parser.parse_args()
    if unknown := sorted(set(chosen.names) - set(names())):
        parser.error(f"there is no attack {unknown[0]}; there are: {', '.join(names())}")
    succeeded = 0
    for name in chosen.names or names():
        with tempfile.TemporaryDirectory() as folder:
            try:
                run(name, Path(folder), chosen.seed, chosen.count)
                print(f"{name}: failed, as it should")
            except AssertionError as error:
                succeeded += 1
                print(f"{name}: SUCCEEDED: {error}")
    return int(succeeded > 0)


if __name__ == "__main__":
    sys.exit(main())
