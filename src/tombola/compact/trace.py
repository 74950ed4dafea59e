"""A model as a torch.fx graph that is easy to reason about: shapes known, in-place calls harmless, flattening plain."""

from __future__ import annotations

import contextlib
import inspect
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules import module as module_hooks

from tombola.nn import flow
from tombola.nn.binary import BinaryActivation, BinaryConv1d, BinaryConv2d, BinaryConv3d, BinaryLinear
from tombola.nn.modes import in_mode

_BINARY = (BinaryActivation, BinaryLinear, BinaryConv1d, BinaryConv2d, BinaryConv3d)
_IN_PLACE = (
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow,
    operator.imatmul, operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift,
)  # fmt: skip


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


# Calls whose result may share memory with what they are given; modules by class, functions and methods by name.
_ALIASES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)
_ALIAS_NAMES = words(
    "flatten unflatten view view_as reshape reshape_as squeeze unsqueeze contiguous detach to float expand "
    "expand_as permute transpose movedim moveaxis swapaxes swapdims t adjoint getitem getattr select narrow chunk "
    "unsafe_chunk split unsafe_split split_with_sizes tensor_split hsplit vsplit dsplit unbind dropout dropout2d "
    "diagonal unfold as_strided view_as_real view_as_complex ravel type type_as half double bfloat16 int long bool cpu "
    "cuda broadcast_to broadcast_tensors expand_copy atleast_1d atleast_2d atleast_3d squeeze_ real imag conj "
    "resolve_conj resolve_neg positive alias identity dropout3d alpha_dropout feature_dropout requires_grad_ "
    "align_to rename refine_names unflatten_"
)
_RESHAPES = frozenset(("flatten", "view", "reshape"))


def traced(
    model: nn.Module, example: Sequence[Tensor], *, training: bool, other: Sequence[Tensor] | None = None
) -> fx.GraphModule:
    """The graph of a model, down to the layers of torch and Tombola, over the model's own modules and parameters.

    Every node carries `meta["tensor_meta"]`. What reads a value after an in-place call reads the call's result, and
    flattening of (N, C, ...) into (N, C·...) is torch.flatten, whatever the model calls. Optional inputs that the
    example leaves out are fixed at their defaults.

    Args:
        model: on the devices where the example lies; its modes are left as they are.
        example: tensors, the batch first.
        training: whether the graph is also to be right in train mode.
        other: the same with another batch size, if the model takes one: it shows what is the batch.

    Raises:
        flow.Untraceable: torch.fx cannot follow the model, or it computes something else in train mode and may not.
    """
    _check_hooks(model)
    graph = _graph(model, len(example), False)
    if training and str(graph) != str(_graph(model, len(example), True)):
        raise flow.Untraceable("its forward depends on the mode other than through modules (F.dropout: use nn.Dropout)")
    network = fx.GraphModule(model, graph)
    _after_in_place(network)
    network.recompile()
    _check_runs(network, example)
    write_shapes(network, example)
    _plain_flattening(network, {} if other is None else _shapes_at(network, other))
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    network.delete_all_unused_submodules()
    network.recompile()
    write_shapes(network, example)
    return network


def _check_runs(network: fx.GraphModule, example: Sequence[Tensor]) -> None:
    """A trace leaves out contexts such as torch.enable_grad. Raises flow.Untraceable."""
    try:
        with in_mode(network, train=False), torch.no_grad():
            network.forward(*(x.clone() for x in example))  # not called: its call prints errors
    except Exception as error:  # whatever the operations have against what they are given
        reason = " ".join(str(error).split())[:120]
        raise flow.Untraceable(f"traced by torch.fx it does not run: {type(error).__name__} {reason}") from error


def write_shapes(network: fx.GraphModule, example: Sequence[Tensor]) -> None:
    """Write shapes and dtypes into the nodes, by running the network once in eval mode."""
    with in_mode(network, train=False), torch.no_grad():
        ShapeProp(network).propagate(*(x.clone() for x in example))  # type: ignore[no-untyped-call, unused-ignore]


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of a node's value; None where it is not one tensor."""
    meta = node.meta.get("tensor_meta")
    return None if meta is None or not hasattr(meta, "shape") else tuple(meta.shape)


def _check_hooks(model: nn.Module) -> None:
    """A trace is of the forward method alone. Raises flow.Untraceable."""
    if model._forward_hooks or model._forward_pre_hooks:
        raise flow.Untraceable("there are hooks on the model as a whole")
    if module_hooks._global_forward_hooks or module_hooks._global_forward_pre_hooks:
        raise flow.Untraceable("there are hooks on all modules (register_module_forward_hook)")


def _graph(model: nn.Module, inputs: int, training: bool) -> fx.Graph:
    plain = fx.Tracer()

    def leaf(module: nn.Module) -> bool:
        return isinstance(module, _BINARY) or plain.is_leaf_module(module, "")

    parameters = list(inspect.signature(type(model).forward).parameters.values())[1 + inputs :]
    fixed = {p.name: p.default for p in parameters if p.default is not p.empty}
    graph = flow.trace(model, leaf, training, fixed).raw
    for node in [node for node in graph.nodes if node.op == "placeholder"][inputs:]:
        _erase_with_users(graph, node)
    return graph


def _erase_with_users(graph: fx.Graph, node: fx.Node) -> None:
    """Take out an input that the graph only compares with its default."""
    for user in list(node.users):
        _erase_with_users(graph, user)
    graph.erase_node(node)


# ---- in-place calls ----------------------------------------------------------------------------------------


def _after_in_place(network: fx.GraphModule) -> None:
    order = {node: i for i, node in enumerate(network.graph.nodes)}
    modules = dict(network.named_modules())
    for node in network.graph.nodes:
        source = flow.input_of(node)
        if node.kwargs.get("out") is not None:
            raise flow.Untraceable(f"{node.name} writes into a tensor that is there already (out=)")
        if source is None or not _in_place(node, modules):
            continue
        base = source
        while _may_alias(base, modules) and (below := flow.input_of(base)) is not None:
            if any(order[user] > order[node] for user in below.users):
                raise flow.Untraceable(f"{node.name} overwrites a view of a value that is read again")
            base = below
        if base.op == "get_attr":
            raise flow.Untraceable(f"{node.name} changes the model's own {str(base.target)!r}")
        if any(user is not node and _may_alias(user, modules) and order[user] < order[node] for user in source.users):
            raise flow.Untraceable(f"{node.name} overwrites a value of which there may be a view")
        later = {user for user in source.users if order[user] > order[node]}
        source.replace_all_uses_with(node, delete_user_cb=later.__contains__)


def _in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    if not flow.is_call(node):
        return False
    name = _name(node)
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.is_mutable
    overwrites = name.endswith("_") and not name.endswith("__")
    return overwrites or node.target in _IN_PLACE or argument(node, "inplace") is True


def argument(node: fx.Node, name: str) -> Any:
    """An argument of a call of a Python function by its name; None where the call does not give it."""
    if name in node.kwargs:
        return node.kwargs[name]
    try:
        return inspect.signature(node.target).bind_partial(*node.args).arguments.get(name)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a method, or a function that is not written in Python
        return None


def _may_alias(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], _ALIASES)
    return flow.is_call(node) and _name(node) in _ALIAS_NAMES


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


# ---- flattening --------------------------------------------------------------------------------------------


def _shapes_at(network: fx.GraphModule, inputs: Sequence[Tensor]) -> dict[fx.Node, tuple[int, ...]]:
    """The shapes of all tensors in one run; what the run does not reach is left out."""
    shapes: dict[fx.Node, tuple[int, ...]] = {}

    class Shapes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, Tensor):
                shapes[n] = tuple(result.shape)
            return result

    with in_mode(network, train=False), torch.no_grad(), contextlib.suppress(Exception):
        Shapes(network).run(*(x.clone() for x in inputs))
    return shapes


def _plain_flattening(network: fx.GraphModule, other: Mapping[fx.Node, tuple[int, ...]]) -> None:
    """View, reshape and flatten of (N, C, ...) into (N, C·...) become torch.flatten, which fits any width.

    `other`: the shapes at another batch size, if there is one.
    """
    for node in list(network.graph.nodes):
        source = flow.input_of(node)
        if source is None or not flow.is_call(node) or _name(node) not in _RESHAPES:
            continue
        before, after = shape_of(source), shape_of(node)
        again = other.get(source), other.get(node)
        if again[0] and again[1] and (again[0][0] != again[1][0] or again[1][1:] != (after or ())[1:]):
            continue  # the batch goes into the features, as in view(1, -1)
        if before and after and len(before) > 2 and len(after) == 2 and before[0] == after[0]:
            with network.graph.inserting_before(node):
                flat = network.graph.call_function(torch.flatten, (source, 1))
            node.replace_all_uses_with(flat)
            network.graph.erase_node(node)
