"""What was chosen for a network on a machine, as a file that can be read and used again."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llvmlite.binding import get_host_cpu_name

from tombola.deploy.kernels.cuda import KERNELS
from tombola.deploy.regions import ENGINES
from tombola.errors import TombolaError
from tombola.runs.atomic import read_json, write_json
from tombola.runs.versions import versions

FORMAT = 1
_MOST_DIMENSIONS = 64


@dataclass(frozen=True)
class RegionPlan:
    """How one region runs. `layers`: its layers' names in order; `choices`: as the native kernels name them."""

    layers: tuple[str, ...]
    engine: str
    choices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How a network is to be run: with a plan nothing is measured, and the outputs are the same, bit for bit.

    `inputs`: the shapes it was made for, batch first. `isolated`: layers that share no region with others. `packed`:
    name of a binary layer on binary activations -> its choice. `machine`: where it was made, for reports alone.
    """

    threads: int
    inputs: tuple[tuple[int, ...], ...]
    parts: tuple[RegionPlan, ...]
    isolated: tuple[str, ...] = ()
    packed: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all. Raises TombolaError."""
        values = asdict(self)
        write_json(Path(path), {"format": FORMAT, "apart": values.pop("isolated"), **values})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan.

        Raises:
            TombolaError: no such file, or it holds no plan that this version can read.
        """
        file = Path(path)
        if not file.is_file():
            raise TombolaError(f"no plan at {file}; give a plan.json that `tombola deploy` wrote")
        content = read_json(file)
        try:
            return _read(content)
        except (KeyError, TypeError, ValueError) as error:
            raise TombolaError(f"{file} holds no plan of format {FORMAT}: {error}; deploy again without it") from None


def this_machine() -> dict[str, str]:
    """The processor and the versions that a plan was made with."""
    return {"processor": f"{platform.machine()} {get_host_cpu_name()}", **versions()}


def _read(content: Any) -> Plan:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError("another format")
    names = {"format", "threads", "inputs", "parts", "apart", "packed", "machine"}
    if set(content) != names:
        raise ValueError(f"its keys are not {', '.join(sorted(names))}")
    threads = content["threads"]
    if type(threads) is not int or not 1 <= threads <= 4096:
        raise ValueError("threads is no number from 1 to 4096")
    inputs = tuple(_shape(sizes) for sizes in _list(content["inputs"]))
    if len(inputs) > _MOST_DIMENSIONS:
        raise ValueError(f"more than {_MOST_DIMENSIONS} inputs")
    parts = tuple(_part(one) for one in _list(content["parts"]))
    return Plan(threads, inputs, parts, _names(content["apart"]), _texts(content["packed"]), _texts(content["machine"]))


def _part(part: Any) -> RegionPlan:
    if not isinstance(part, dict) or set(part) != {"layers", "engine", "choices"}:
        raise ValueError("a part without layers, engine and choices")
    if part["engine"] not in (*ENGINES, *KERNELS):
        raise ValueError(f"a part whose engine is none of {', '.join((*ENGINES, *KERNELS))}")
    return RegionPlan(_names(part["layers"]), part["engine"], _texts(part["choices"]))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("a list is missing")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not all(_is_text(name) for name in _list(value)):
        raise ValueError("names are missing")
    return tuple(value)


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(map(_is_text, (*value, *value.values()))):
        raise ValueError("texts by name are missing")
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= 1000


def _shape(value: Any) -> tuple[int, ...]:
    sizes = _list(value)
    if len(sizes) > _MOST_DIMENSIONS or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("a shape with other things than sizes, or too many of them")
    return tuple(sizes)
