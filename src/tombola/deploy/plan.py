"""What was chosen for a network on a machine, as a file that can be read and used again."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from llvmlite.binding import get_host_cpu_name
from msgspec import Meta

from tombola.bench.runtimes import RUNTIMES
from tombola.deploy.kernels.binary import PackedChoice
from tombola.deploy.kernels.cuda import KERNELS
from tombola.deploy.kernels.int8 import Int8Choices
from tombola.deploy.kernels.sparse import Choices
from tombola.deploy.regions import ENGINES, INT8
from tombola.errors import TombolaError
from tombola.graph.record import GraphRecord
from tombola.names import check_known
from tombola.runs.atomic import read_json, write_json
from tombola.runs.versions import versions

FORMAT = 2
Shape = Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=64)]


class RegionPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one region runs. `layers`: its layers' names in order; `choices`, `int8`: of the native kernels."""

    layers: tuple[str, ...]
    engine: str
    choices: Choices | None = None
    int8: Int8Choices | None = None

    def __post_init__(self) -> None:
        check_known("engine", self.engine, (*ENGINES, INT8, *KERNELS))
        if (self.engine == INT8) is (self.int8 is None):
            raise TombolaError("scales and tiles are for the engine int8, which needs them")
        _check_names((*self.int8.layers, *self.int8.scales) if self.int8 else ())
        if (self.engine == "native") is (self.choices is None):
            raise TombolaError("choices are for the engine native, which needs them")
        _check_names((*self.layers, *(self.choices.layers if self.choices else ())))


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a network is to be run: with a plan nothing is measured, and the outputs are the same, bit for bit.

    `inputs`: the shapes it was made for, batch first. `isolated`: layers that share no region with others. `packed`:
    name of a binary layer on binary activations -> its choice. `machine`: where it was made, for reports alone.
    `graph`: the network as it was traced. `engine`: what the whole network runs in at this batch size, of
    `tombola.bench.runtimes.RUNTIMES`; None: its parts as they are.
    """

    threads: Annotated[int, Meta(ge=1, le=4096)]
    inputs: Annotated[tuple[Shape, ...], Meta(max_length=64)]
    parts: tuple[RegionPlan, ...]
    isolated: tuple[str, ...] = ()
    packed: Mapping[str, PackedChoice] = {}
    machine: Mapping[str, str] = {}
    graph: GraphRecord | None = None
    engine: str | None = None

    def __post_init__(self) -> None:
        if self.engine is not None:
            check_known("engine", self.engine, RUNTIMES)
        _check_names((*self.isolated, *self.packed, *self.machine, *self.machine.values()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all. Raises TombolaError."""
        write_json(Path(path), {"format": FORMAT, **msgspec.to_builtins(self)})

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
        number = content.pop("format", None) if isinstance(content, dict) else None
        try:
            if number != FORMAT:
                raise TombolaError(f"its format is {str(number)[:20]!r}")
            return msgspec.convert(content, cls)
        except (msgspec.ValidationError, TombolaError) as error:
            raise TombolaError(
                f"{file} holds no plan of format {FORMAT}: {_shown(str(error))}; deploy again without it"
            ) from None


def this_machine() -> dict[str, str]:
    """The processor and the versions that a plan was made with."""
    return {"processor": f"{platform.machine()} {get_host_cpu_name()}", **versions()}


def _shown(message: str) -> str:
    """It may quote what somebody sent."""
    short = message if len(message) <= 400 else f"{message[:200]}...{message[-200:]}"
    return "".join(c for c in short if c.isprintable())


def _check_names(names: Iterable[str]) -> None:
    if not all(name.isprintable() and len(name) <= 1000 for name in names):
        raise TombolaError("a name that is not printable or longer than 1,000 characters")
