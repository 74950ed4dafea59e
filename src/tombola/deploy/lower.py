"""A traced network → regions that native kernels can run, and the network with modules instead of them."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import fx, nn

from tombola.deploy.node import PassThrough, Recognised, Unsupported, shape_of
from tombola.deploy.ops import (
    Computed,
    Concat,
    Conv,
    Linear,
    Op,
    Pointwise,
    Pool,
    Region,
    Resize,
    Shuffle,
    Slice,
    reading,
    reads,
)
from tombola.deploy.recognise import is_padding_of_a_layer, recognise
from tombola.deploy.rows import SHAPED
from tombola.graph.node import batch_axes, computes, operation, place, value_of


@dataclass(frozen=True, eq=False)
class LoweredRegion:
    """A region, and the nodes of the network that it replaces.

    `inputs`: the nodes before it, in the order of the region's inputs. `outputs`: those of its nodes that are read
    after it, in the order of the region's outputs. `shapes`: the shape of one example of each output, as the network
    has it.
    """

    region: Region
    nodes: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers with weights, in order; of a shared layer once for each call."""
        return tuple(op.name for op in self.region.ops if isinstance(op, Conv | Linear))


@dataclass(frozen=True)
class Lowered:
    """`parts`: the regions. `left`: the other nodes that compute something -> why they stay in torch."""

    parts: tuple[LoweredRegion, ...]
    left: Mapping[str, str]


def lower(network: fx.GraphModule, isolated: Collection[str] = ()) -> Lowered:
    """The regions of a traced network (`tombola.graph.trace`): the longest runs of nodes that kernels exist for.

    Additions and activations are fused into the layers before them.

    Args:
        isolated: names of layers that share no region with others.
    """
    batched = any(batch_axes(node) for node in network.graph.nodes if node.op == "placeholder")
    held: dict[fx.Node, tuple[int, ...]] = {}
    runs: list[dict[fx.Node, Recognised | PassThrough]] = [{}]
    left: dict[str, str] = {}
    for node in network.graph.nodes:
        if node.op in ("placeholder", "get_attr", "output") or not computes(node) or is_padding_of_a_layer(node):
            continue  # padding: of the layer after it
        try:
            recognised = _checked(recognise(node, network), node, batched)
            if _batch(next(iter(runs[-1]), node)) != _batch(node):
                runs.append({})
                held = {}
            held[node] = _held(recognised, node, held)
            runs[-1][node] = recognised
        except Unsupported as reason:
            if node.op == "call_function" and SHAPED not in node.meta:
                left.setdefault(place(node), str(reason))
            runs.append({})
            held = {}
    parts: list[LoweredRegion] = []
    for run in (piece for whole in runs for piece in _pieces(whole, isolated)):
        try:
            parts.append(_part(run))
        except Unsupported as reason:
            left.update({one.op.name: str(reason) for one in run.values() if isinstance(one, Recognised)})
    return Lowered(tuple(parts), left)


def put_in(network: fx.GraphModule, parts: Sequence[tuple[LoweredRegion, nn.Module]]) -> fx.GraphModule:
    """The network with every region replaced by its module, which returns the tuple of the region's outputs.

    The graph is changed.
    """
    now: dict[fx.Node, fx.Node] = {}  # the outputs of earlier parts
    for number, (part, module) in enumerate(parts):
        name = f"region_{number}"
        while hasattr(network, name):
            name += "_"
        network.add_submodule(name, module)
        with network.graph.inserting_after(part.nodes[-1]):
            call = network.graph.call_module(name, tuple(now.get(node, node) for node in part.inputs))
        with network.graph.inserting_after(call):
            for i, node in enumerate(part.outputs):
                one = network.graph.call_function(operator.getitem, (call, i))
                now[node] = one
                node.replace_all_uses_with(one, delete_user_cb=lambda user, part=part: user not in part.nodes)  # type: ignore[misc]
        for node in reversed(part.nodes):
            network.graph.erase_node(node)
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def alone(network: fx.GraphModule, part: LoweredRegion) -> fx.GraphModule:
    """The region as a network of its own, in torch: from its inputs to the tuple of its outputs."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in part.inputs}

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:
            copies[node] = graph.node_copy(node, copied)
        return copies[node]

    graph.output(tuple(map(copied, part.outputs)))
    return fx.GraphModule(network, graph)


def _batch(node: fx.Node) -> tuple[int, str]:
    """The size of the first axis, and its symbol: a region's values have one."""
    value = value_of(node)
    assert value is not None
    return value.shape[0], value.symbols[0]


# ---- from nodes to operations ----------------------------------------------------------------------------------------


def _checked(recognised: Recognised | PassThrough, node: fx.Node, batched: bool) -> Recognised | PassThrough:
    """The same, if kernels can run it. Raises Unsupported.

    `batched`: whether the network takes any batch.
    """
    from tombola.deploy.kernels.sparse import supports

    values = [node, *recognised.reads]
    if batched and not all(batch_axes(one) == (0,) for one in values):
        raise Unsupported("its first dimension is not the batch, or rows of it")
    if len({_batch(one) for one in values}) > 1:
        raise Unsupported("its first dimension is another than its input's")
    if isinstance(recognised, Recognised):
        reason = supports(recognised.op)
        if reason is not None:
            raise Unsupported(reason)
    return recognised


@dataclass
class _RegionDraft:
    """A region in the making: values are named by the node that made them, flattened or not."""

    root: dict[fx.Node, fx.Node] = field(default_factory=dict)
    inputs: dict[fx.Node, None] = field(default_factory=dict)
    held: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)

    def of(self, node: fx.Node) -> fx.Node:
        if node not in self.root:
            self.root[node] = node
            self.inputs[node] = None
        return self.root[node]


def _pieces(
    run: Mapping[fx.Node, Recognised | PassThrough], isolated: Collection[str]
) -> Iterator[dict[fx.Node, Recognised | PassThrough]]:
    """The run, cut between isolated layers and others; what has no weights stays with the layer before it."""
    piece: dict[fx.Node, Recognised | PassThrough] = {}
    kind: bool | None = None
    for node, recognised in run.items():
        if isinstance(recognised, Recognised) and isinstance(recognised.op, Conv | Linear):
            own = recognised.op.name in isolated
            if kind not in (None, own):
                yield piece
                piece = {}
            kind = own
        piece[node] = recognised
    if kind is not None:
        yield piece


def _part(run: Mapping[fx.Node, Recognised | PassThrough]) -> LoweredRegion:
    """The region of a run of nodes. Raises Unsupported."""
    draft = _RegionDraft()
    for node, recognised in run.items():
        roots = [draft.of(one) for one in recognised.reads]
        draft.held[node] = _held(recognised, node, draft.held)
        if isinstance(recognised, PassThrough):
            (draft.root[node],) = roots
            continue
        draft.root[node] = node
        draft.ops.append(reading(recognised.op, [one.name for one in roots]))
        if recognised.after is not None:
            draft.ops.append(recognised.after)
    own = {*run, *(node for one in run.values() if isinstance(one, Recognised) for node in one.between)}
    read = [node for node in run if any(user not in own for user in node.users)]
    outputs = tuple(node for node in read if draft.root[node] not in draft.inputs)
    names = tuple(draft.root[node].name for node in outputs)
    region = Region({node.name: shape_of(node)[1:] for node in draft.inputs}, _fuse(draft.ops, names), names)
    nodes: list[fx.Node] = []
    for node, recognised in run.items():
        if node in outputs or node not in read:  # all but inputs that are read flattened
            nodes += [*(recognised.between if isinstance(recognised, Recognised) else ()), node]
    return LoweredRegion(
        region, tuple(nodes), tuple(draft.inputs), outputs, tuple(shape_of(node)[1:] for node in outputs)
    )


def _maps(node: fx.Node) -> tuple[int, ...]:
    """(C, H, W) of a value; vectors are 1 x 1 maps, as kernels hold them."""
    return (*shape_of(node)[1:], 1, 1)[:3]


def _held(found: Recognised | PassThrough, node: fx.Node, held: Mapping[fx.Node, tuple[int, ...]]) -> tuple[int, ...]:
    """(C, H, W) of a node's value as kernels hold it: flattened maps stay maps. `held`: those known of others.

    Raises:
        Unsupported: kernels hold what it reads in other shapes than the network does.
    """
    sources = [held.get(one, _maps(one)) for one in found.reads]
    if isinstance(found, PassThrough):
        return sources[0]
    op = found.op
    if isinstance(op, Conv | Linear | Pool | Resize | Shuffle):
        return _maps(node)
    if not isinstance(op, Pointwise):
        if any(shape != _maps(one) for shape, one in zip(sources, found.reads, strict=True)):
            raise Unsupported(f"{operation(node)} of flattened maps")
        return _maps(node)
    if len(set(sources)) > 1:
        raise Unsupported("an addition of maps and flattened maps")
    if any(each is not None and len(each) != sources[0][0] for each in (op.scale, op.shift)):
        raise Unsupported("a norm over flattened maps")
    return sources[0]


def _fuse(ops: Sequence[Op], outputs: Sequence[str]) -> tuple[Op, ...]:
    """Fuse activations into the operation and additions into the layer before them, where nothing else reads those."""
    readers = Counter([*outputs, *(name for op in ops for name in reads(op))])
    done: dict[str, Op] = {}
    for op in ops:
        before = _activates(op, done) if isinstance(op, Pointwise) else None
        if isinstance(op, Pointwise) and before is not None and readers[before.target] == 1:
            done.pop(before.target)
            op = replace(before, target=op.target, activation=op.activation)
        elif isinstance(op, Pointwise) and op.residual is not None and op.scale is None and op.shift is None:
            op = _fuse_addition(op, done, readers)
        done[op.target] = op
    return tuple(done.values())


def _activates(op: Pointwise, done: Mapping[str, Op]) -> Computed | None:
    """The operation whose activation this one can be; None where it is more, or there is none."""
    if op.activation is None or op.residual is not None or op.scale is not None or op.shift is not None:
        return None
    before = done.get(op.source)
    if before is None or isinstance(before, Concat | Slice):
        return None
    return before if before.activation is None else None


def _fuse_addition(op: Pointwise, done: dict[str, Op], readers: Mapping[str, int]) -> Op:
    """The addition as part of the later of the two layers that it adds, else as it is."""
    assert op.residual is not None
    order = list(done)
    sides = [(op.source, op.residual), (op.residual, op.source)]
    sides.sort(key=lambda side: order.index(side[0]) if side[0] in done else -1, reverse=True)
    for own, other in sides:
        layer = done.get(own)
        if (
            isinstance(layer, Conv | Linear)
            and readers[own] == 1
            and layer.activation is None
            and layer.residual is None
        ):
            done.pop(own)
            return replace(layer, target=op.target, residual=other)
    return op
