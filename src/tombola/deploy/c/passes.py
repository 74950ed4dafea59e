"""A deployed network as passes of native kernels, from inputs over buffers to outputs; or why it is not that alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from torch import fx, nn

from tombola.deploy.inference import short
from tombola.deploy.kernels.binary.modules import PackedLayer, PackSigns
from tombola.deploy.kernels.sparse.region import NativeRegion
from tombola.deploy.regions import NativeModule, TorchModule
from tombola.errors import TombolaError
from tombola.graph.node import operation, place

if TYPE_CHECKING:
    from tombola.deploy.deploy import Deployed

Kind = Literal["input", "output", "buffer"]


@dataclass(frozen=True)
class Where:
    """Where a value lies: which input or output of the network, or which buffer between passes."""

    kind: Kind
    index: int


@dataclass(frozen=True, eq=False)
class Pass:
    """A region, where it reads its inputs, in their order, and where it writes its outputs, by name."""

    native: NativeRegion
    reads: tuple[Where, ...]
    writes: dict[str, Where]


@dataclass(frozen=True)
class Port:
    """An input or output: its name and the shape of one example."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Floats of one example."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Passes:
    """What is run for a batch. `buffers`: floats of one example; `piece`: how many examples at most go through all
    passes together, None where there is one pass; `batch`: the only batch size, None where any will do."""

    passes: tuple[Pass, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    buffers: tuple[int, ...]
    piece: int | None
    batch: int | None
    threads: int
    spins: int = 30_000
    """How often a thread without work looks for some before it sleeps; a look takes some 15 ns."""


def passes_of(deployed: Deployed) -> Passes:
    """The passes of a deployed network.

    Raises:
        TombolaError: something of it runs in torch, or in kernels that cannot leave Python; it is named.
    """
    network, takes = deployed.regions, deployed.takes
    if not isinstance(network, fx.GraphModule):
        raise _stays(next(iter(deployed.report.dense.items()), ("the network", "it was not read whole")))
    if any(short(dtype) != "float32" for dtype in takes.dtypes) or not all(takes.batch.carries):
        raise TombolaError(f"C takes float32 inputs, the batch first{_FIX}")
    reader = _Reader(network, _results(network))
    for node in network.graph.nodes:
        reader.read(node)
    inputs = tuple(Port(*one) for one in zip(takes.names, (shape[1:] for shape in takes.shapes), strict=True))
    batch, several = takes.batch, len(reader.passes) > 1
    return Passes(
        tuple(reader.passes),
        inputs,
        tuple(Port(f"output {i}", reader.shapes[node]) for i, node in enumerate(reader.results)),
        tuple(reader.buffers),
        max(max(one.native.batch, one.native.choices.split.images) for one in reader.passes) if several else None,
        None if batch.only is None else batch.size,
        deployed.plan.threads,
    )


def what_keeps_the_gain(deployed: Deployed) -> str:
    """One line: which export of a deployed network has its kernels, and which has not."""
    rest = "onnx, torch and state_dict hold the compacted network, without the sparse kernels"
    try:
        passes_of(deployed)
    except TombolaError as error:
        some = "onnx_kernels keeps the kernels and their gain; " if native_modules(deployed.regions) else ""
        return f"exports: {some}{rest}; c is not possible: {str(error).rpartition('; ')[0]}"
    return f"exports: c and onnx_kernels keep the kernels and their gain; {rest}"


_FIX = "; leave format c out"


def region_alone(module: NativeModule, threads: int, spins: int) -> Passes:
    """One region as a network, with the inputs and outputs of its module."""
    native: NativeRegion = module.native
    if len(set(native.outputs)) < len(native.outputs):
        raise TombolaError("a region gives one value in two shapes; leave format onnx_kernels out")
    inputs = tuple(Port(name, shape) for name, shape in native.inputs.items())
    outputs = tuple(Port(name, shape) for name, shape in zip(native.outputs, module.shapes, strict=True))
    reads = tuple(Where("input", i) for i in range(len(inputs)))
    writes = {port.name: Where("output", i) for i, port in enumerate(outputs)}
    return Passes((Pass(native, reads, writes),), inputs, outputs, (), None, None, threads, spins)


def native_modules(network: nn.Module) -> dict[str, NativeModule]:
    """Path -> each module of a deployed network that runs a region in native kernels."""
    return {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, NativeModule) and isinstance(module.native, NativeRegion)
    }


def _results(network: fx.GraphModule) -> tuple[fx.Node, ...]:
    """The nodes of the outputs, in order."""
    (output,) = (node for node in network.graph.nodes if node.op == "output")
    found: list[fx.Node] = []
    fx.node.map_arg(output.args, found.append)
    if not found or len(set(found)) < len(found):
        raise _TWICE
    return tuple(found)


_TWICE = TombolaError(f"C gives each output once, and this network has none, or one twice{_FIX}")


@dataclass
class _Reader:
    network: fx.GraphModule
    results: tuple[fx.Node, ...]
    passes: list[Pass] = field(default_factory=list)
    shapes: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    """Of one example of each region's output."""
    buffers: list[int] = field(default_factory=list)
    _values: dict[fx.Node, Where] = field(default_factory=dict)
    _inputs: int = 0

    def read(self, node: fx.Node) -> None:
        """Take a node in. Raises TombolaError."""
        if node.op == "placeholder":
            self._values[node] = Where("input", self._inputs)
            self._inputs += 1
        elif node.op == "call_module":
            self._pass(node)
        elif node.op == "output":
            passed = [one for one in self.results if one not in self.shapes]
            if passed:
                raise _stays((place(passed[0]), "an output that no layer computes"))
        elif node not in self._values:
            raise _stays((place(node), operation(node) or node.op))

    def _pass(self, node: fx.Node) -> None:
        module = self.network.get_submodule(str(node.target))
        native = module.native if isinstance(module, NativeModule) else None
        if not isinstance(module, NativeModule) or not isinstance(native, NativeRegion):
            raise _runs_elsewhere(module, node)
        reads: dict[str, list[tuple[fx.Node, int]]] = {name: [] for name in native.outputs}
        for user in node.users:
            index = int(user.args[1])  # type: ignore[arg-type]
            reads[native.outputs[index]].append((user, index))
        writes = {name: self._place(native, name, [user for user, _ in users]) for name, users in reads.items()}
        for name, users in reads.items():
            for user, index in users:
                self._values[user], self.shapes[user] = writes[name], module.shapes[index]
        self.passes.append(Pass(native, tuple(self._values[one] for one in _given(node)), writes))

    def _place(self, native: NativeRegion, name: str, users: Sequence[fx.Node]) -> Where:
        """Where a region writes an output."""
        own = [self.results.index(user) for user in users if user in self.results]
        if len(own) > 1:
            raise _TWICE
        if own:
            return Where("output", own[0])
        self.buffers.append(math.prod(native.shapes[name]))
        return Where("buffer", len(self.buffers) - 1)


def _given(node: fx.Node) -> Sequence[fx.Node]:
    return [one for one in node.args if isinstance(one, fx.Node)]


def _runs_elsewhere(module: nn.Module, node: fx.Node) -> TombolaError:
    if isinstance(module, TorchModule):
        return TombolaError(
            f"C has the native kernels alone, and {_named(module, node)} runs in torch, which was faster here; "
            "deploy with kernels_only, or leave format c out"
        )
    if isinstance(module, NativeModule):
        return TombolaError(
            f"C has the kernels of float32 alone, and {node.target} runs in 8 bits; deploy in float32, or leave "
            "format c out"
        )
    return _stays((_named(module, node), "binary layers on packed bits" if _packed(module) else "runs in torch"))


def _packed(module: nn.Module) -> bool:
    return isinstance(module, PackedLayer | PackSigns)


def _named(module: nn.Module, node: fx.Node) -> str:
    """A region by the first of the layers in it."""
    inner = getattr(module, "network", None)
    graph = inner.graph.nodes if isinstance(inner, fx.GraphModule) else ()
    layers = [place(one) for one in graph if one.op == "call_function"]
    return f"the region of {layers[0]}" if layers else str(node.target)


def _stays(what: tuple[str, str]) -> TombolaError:
    return TombolaError(f"C has the native kernels alone, and {what[0]} stays in torch ({what[1]}){_FIX}")
