"""A region and its choices → values in layouts, and the nodes that carry and compute them, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tombola.deploy.kernels.gemv import Form
from tombola.deploy.kernels.sparse.choices import Choice, Lanes
from tombola.deploy.kernels.sparse.geometry import Shape, Taps, shapes_of, taps, vectors_of
from tombola.deploy.kernels.sparse.layout import Layout, layout
from tombola.deploy.kernels.sparse.template import ArenaAddress
from tombola.deploy.ops import Computed, Concat, Conv, Linear, Op, Region, Slice, reads
from tombola.errors import TombolaError


@dataclass(frozen=True)
class Held:
    """A value as it is held in one layout. For a strided convolution with images outermost: cut into phases."""

    value: str
    flat: bool
    phases_for: str | None = None
    """The target of the convolution that reads the phases."""
    packed: bool = False
    """Maps without a border: features contiguous."""


@dataclass(frozen=True, eq=False)
class Enter:
    """Copy an input of the region into a layout."""

    target: Held


@dataclass(frozen=True, eq=False)
class Leave:
    """Copy a value out of its layout, to the caller."""

    source: Held


@dataclass(frozen=True, eq=False)
class Convert:
    """Copy a value from layout to layout."""

    source: Held
    target: Held


@dataclass(frozen=True, eq=False)
class CutPhases:
    """Copy the phases of a value that a strided convolution reads."""

    source: Held
    target: Held
    op: Conv


@dataclass(frozen=True, eq=False)
class Compute:
    """Run an operation."""

    op: Computed
    source: Held
    target: Held
    residual: Held | None


@dataclass(frozen=True, eq=False)
class Join:
    """Write values into one, channel after channel: those alone that do not lie there already."""

    op: Concat
    sources: tuple[Held, ...]
    target: Held


@dataclass(frozen=True, eq=False)
class Cut:
    """Name a range of channels, which stay where they are."""

    op: Slice
    source: Held
    target: Held


Node = Enter | Leave | Convert | CutPhases | Compute | Join | Cut


def held_by(node: Node) -> tuple[Held, ...]:
    """What a node reads and writes."""
    match node:
        case Enter(target):
            return (target,)
        case Leave(source):
            return (source,)
        case Compute(_, source, target, Held() as residual):
            return source, target, residual
        case Join(_, sources, target):
            return *sources, target
        case _:
            return node.source, node.target


@dataclass(eq=False)
class Assembly:
    """The nodes of a region, and where their values lie."""

    shapes: dict[str, Shape]
    nodes: list[Node] = field(default_factory=list)
    layouts: dict[Held, Layout] = field(default_factory=dict)
    buffers: dict[Held, int] = field(default_factory=dict)
    """Which buffer each lies in; values in one buffer have equal layouts, so that borders stay zero."""
    sizes: list[int] = field(default_factory=list)
    """Bytes of each buffer."""
    within: dict[Held, tuple[Held, int]] = field(default_factory=dict)
    """What lies in a range of another's channels: the other, and the first of them."""

    def place(self, held: Held) -> tuple[Held, int]:
        """(what it lies in that lies in nothing else, the first of its channels there)."""
        first = 0
        while held in self.within:
            held, more = self.within[held]
            first += more
        return held, first

    def channels(self, held: Held) -> int:
        """How many a value has."""
        return self.shapes[held.value][0]

    def address(self, held: Held, c: int = 0, y: int = 0, x: int = 0) -> ArenaAddress:
        """Of a pixel of the first image."""
        whole, first = self.place(held)
        return ArenaAddress(self.buffers[whole], self.layouts[whole].at(first + c, y, x))


def assemble(
    region: Region, choices: Mapping[str, Choice], images: int, shapes: Mapping[str, Shape] | None = None
) -> Assembly:
    """Nodes, layouts and buffers for chunks of `images` images; `shapes`: of values that are held in another form.

    Raises:
        TombolaError: a choice does not fit its layer or the number of images.
    """
    assembly = Assembly(dict(shapes_of(region) if shapes is None else shapes))
    _list_nodes(region, choices, images, assembly)
    put_within(assembly, choices)
    _lay_out(images, assembly)
    _assign_buffers(assembly)
    return assembly


# ---- nodes ---------------------------------------------------------------------------------------------------------


def _list_nodes(region: Region, choices: Mapping[str, Choice], images: int, assembly: Assembly) -> None:
    held: dict[str, list[Held]] = {}
    vectors = vectors_of(region)

    def need(value: str, flat: bool) -> Held:
        forms = held.setdefault(value, [])
        for one in forms:
            if one.flat == flat and not one.packed:
                return one
        target = Held(value, flat)
        if value in region.inputs:
            assembly.nodes.append(Enter(target))
        else:
            assembly.nodes.append(Convert(forms[0], target))
        forms.append(target)
        return target

    def form(value: str) -> bool:
        """Whether the value is held flat so far; of an input not read yet, as suits the number of images."""
        return held[value][0].flat if held.get(value) else images == 1

    for op in region.ops:
        if isinstance(op, Concat | Slice):
            flat = form(reads(op)[0])
            sources = tuple(need(value, flat) for value in reads(op))
            target = Held(op.target, flat)
            held[op.target] = [target]
            assembly.nodes.append(Join(op, sources, target) if isinstance(op, Concat) else Cut(op, sources[0], target))
            continue
        flat = not isinstance(choices[op.target], Lanes) if isinstance(op, Conv | Linear) else form(op.source)
        if images == 1 and not flat:
            raise TombolaError(f"the choice for {op.name} needs 8 images or more at a time")
        if isinstance(op, Linear) and flat and images > 1:
            raise TombolaError(f"the choice for {op.name} is one for single images")
        source = need(op.source, flat)
        if isinstance(op, Conv) and flat and op.stride != (1, 1):
            phases = Held(op.source, True, op.target)
            assembly.nodes.append(CutPhases(source, phases, op))
            source = phases
        if isinstance(op, Linear) and isinstance(choices[op.target], Form) and op.source not in vectors:
            packed = Held(op.source, True, packed=True)
            if packed not in held[op.source]:
                held[op.source].append(packed)
                assembly.nodes.append(Convert(source, packed))
            source = packed
        rest = next((need(value, flat) for value in reads(op)[1:]), None)
        target = Held(op.target, flat)
        held[op.target] = [target]
        assembly.nodes.append(Compute(op, source, target, rest))
    for value in dict.fromkeys(region.outputs):
        assembly.nodes.append(Leave(need(value, form(value))))


# ---- values within others ------------------------------------------------------------------------------------------


def put_within(assembly: Assembly, choices: Mapping[str, Choice]) -> None:
    """Let slices lie in what they are cut from, and what is joined in what it is joined to, where nothing forbids it.

    A value that is joined twice, or cut and joined in another order, is copied.
    """
    spilling = {
        node.target
        for node in assembly.nodes
        if isinstance(node, Compute)
        and isinstance(node.op, Conv | Linear)
        and _spills(choices[node.op.target], node.op)
    }
    for node in assembly.nodes:
        if isinstance(node, Cut):
            assembly.within[node.target] = node.source, node.op.start
        elif isinstance(node, Join):
            pieces = pieces_of(node, assembly)
            if len(pieces) == 1:
                whole, first, _, _ = pieces[0]
                assembly.within[node.target] = whole, first
                continue
            for whole, _, count, at in pieces:
                if count == assembly.channels(whole) and whole not in spilling and whole not in assembly.within:
                    assembly.within[whole] = node.target, at


def pieces_of(node: Join, assembly: Assembly) -> list[tuple[Held, int, int, int]]:
    """What a value is joined of: (where it lies, the first channel there, how many, the first channel here)."""
    pieces: list[tuple[Held, int, int, int]] = []
    at = 0
    for held in node.sources:
        (whole, first), count = assembly.place(held), assembly.channels(held)
        before = pieces[-1] if pieces else None
        if before is not None and before[0] == whole and before[1] + before[2] == first:
            pieces[-1] = whole, before[1], before[2] + count, before[3]
        else:
            pieces.append((whole, first, count, at))
        at += count
    return pieces


def _spills(choice: Choice, op: Op) -> bool:
    """Whether a layer writes more rows than it has, since some share a list."""
    return isinstance(op, Conv | Linear) and not isinstance(choice, Form) and len(op.weight) % choice.rows > 0


# ---- layouts -------------------------------------------------------------------------------------------------------


def conv_taps(op: Conv, shapes: Mapping[str, Shape]) -> tuple[Taps, Taps]:
    """The taps of both axes of a convolution."""
    (_, *size), (_, *out) = shapes[op.source], shapes[op.target]
    return taps(op, 0, size[0], out[0]), taps(op, 1, size[1], out[1])


def phases_of(op: Conv, shapes: Mapping[str, Shape]) -> list[tuple[int, int]]:
    """The phases that are read, in the order in which they are held."""
    down, across = conv_taps(op, shapes)
    return [(r, q) for r in sorted(set(down.phase)) for q in sorted(set(across.phase))]


def _lay_out(images: int, assembly: Assembly) -> None:
    border: dict[Held, tuple[int, int]] = {}
    written: set[Held] = set()  # by vectors of neighbouring positions
    tied = _Ties()

    def whole(held: Held) -> Held:
        return assembly.place(held)[0]

    for node in assembly.nodes:
        for held in held_by(node):
            border.setdefault(whole(held), (0, 0))
        if not isinstance(node, Compute) or not isinstance(op := node.op, Conv):
            continue
        source, target = whole(node.source), whole(node.target)
        wanted = (max(op.padding[0], op.after[0]), max(op.padding[1], op.after[1]))
        if source.phases_for:
            down, across = conv_taps(op, assembly.shapes)
            wanted = (down.border, across.border)
        border[source] = (max(border[source][0], wanted[0]), max(border[source][1], wanted[1]))
        if target.flat:
            written.add(target)
            tied.tie(source, target)
            if node.residual is not None:
                tied.tie(whole(node.residual), target)
    phases = {node.target: node.op for node in assembly.nodes if isinstance(node, CutPhases)}
    shape: dict[Held, Shape] = {}
    for held in border:
        c, h, w = assembly.shapes[held.value]
        shape[held] = (c * h * w, 1, 1) if held.packed else (c, h, w)
        if held in phases:
            op = phases[held]
            down, across = conv_taps(op, assembly.shapes)
            shape[held] = (shape[held][0] * len(phases_of(op, assembly.shapes)), down.size, across.size)
    rows: dict[Held, int] = {}
    for held in border:
        lead = tied.of(held)
        rows[lead] = max(rows.get(lead, 0), shape[held][2] + border[held][1])
    for held, wanted in border.items():
        row = rows[tied.of(held)]
        assembly.layouts[held] = layout(shape[held], row, wanted, images, flat=held.flat, spread=held in written)
    for held in assembly.within:
        assembly.layouts[held] = assembly.layouts[whole(held)]


class _Ties:
    """Sets of values whose rows must be equally long."""

    def __init__(self) -> None:
        self._parent: dict[Held, Held] = {}

    def of(self, held: Held) -> Held:
        """The representative of its set."""
        while held in self._parent:
            held = self._parent[held]
        return held

    def tie(self, a: Held, b: Held) -> None:
        a, b = self.of(a), self.of(b)
        if a != b:
            self._parent[a] = b


# ---- buffers -------------------------------------------------------------------------------------------------------


def _assign_buffers(assembly: Assembly) -> None:
    used = [dict.fromkeys(assembly.place(held)[0] for held in held_by(node)) for node in assembly.nodes]
    last = {held: i for i, each in enumerate(used) for held in each}
    free: dict[Layout, list[int]] = {}
    for i, (node, each) in enumerate(zip(assembly.nodes, used, strict=True)):
        if not isinstance(node, Leave):
            target, _ = assembly.place(node.target)
            kind = assembly.layouts[target]
            if target not in assembly.buffers:
                spare = free.get(kind)
                if not spare:
                    assembly.sizes.append(kind.size)
                assembly.buffers[target] = spare.pop() if spare else len(assembly.sizes) - 1
        for held in each:
            if last[held] == i:
                free.setdefault(assembly.layouts[held], []).append(assembly.buffers[held])
