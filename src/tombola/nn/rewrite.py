"""Changes of a network that a ticket can record: binary activations for ReLUs, binary layers for plain ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn

from tombola.errors import TombolaError
from tombola.formats import aligned
from tombola.nn import flow
from tombola.nn.binary import BinaryActivation, use_binary_layers_
from tombola.nn.remarks import remarks
from tombola.parameters import unwrap


@dataclass(frozen=True)
class Replaced:
    """Activations of one kind at one location.

    `kind`: "nn.ReLU", "F.relu", "Tensor.relu_" ...; `where`: path of the module, or of the one that calls the
    function ("" for the model itself); `times`: calls in one pass of the model, or of the one that calls the
    function; None where the model cannot be traced.
    """

    kind: str
    where: str
    times: int | None


@dataclass(frozen=True)
class RewriteReport:
    """What `binary_activations` replaced, and remarks about the resulting network."""

    replaced: tuple[Replaced, ...]
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [("replaced", "in", "times")]
        rows += [(r.kind, r.where or "(the model)", "?" if r.times is None else str(r.times)) for r in self.replaced]
        return "\n".join([*aligned(rows, left=(0, 1)), *(f"note: {remark}" for remark in self.remarks)])


# ---- binary activations ------------------------------------------------------------------------------------


def binary_activations(model: nn.Module) -> tuple[nn.Module, RewriteReport]:
    """Replace every ReLU, ReLU6 and Hardtanh of `model`, module or function, by BinaryActivation; in place.

    Modules are swapped. Where a forward calls functions, torch.fx traces that one forward, in train and in eval
    mode, and the module gets a subclass of its class with the new code: attributes other than `training` count as
    constants there, and it can be copied, compiled and exported, but not pickled. No state_dict name changes, and
    nothing else is touched. A model that cannot be traced as a whole gets no remarks.

    Returns:
        the model itself, and what was replaced.

    Raises:
        TombolaError: other nonlinear activations would stay; the output would be binary; a forward calls
            activations as functions and cannot be traced; an in-place activation whose input is used again; there
            is nothing to replace. The model is as it was then.
    """
    bare = unwrap(model)
    if isinstance(bare, torch.jit.ScriptModule):
        raise TombolaError("the model is scripted (torch.jit); rewrite the model that it was made from")
    try:
        graph = flow.whole(bare)
    except flow.Untraceable:
        graph = None
    forwards = _forwards(bare)
    graphs = [graph] if graph else [one for pair in forwards.values() for one in pair]
    _check_others(bare, graph, graphs)
    for one in graphs:
        _check_in_place(one)
    if graph:
        _check_output(graph)
    swapped, calls = _swaps(bare), {m: pair for m, pair in forwards.items() if any(map(_functions, pair))}
    report = RewriteReport(
        tuple(_module_rows(swapped, graph)) + tuple(_function_rows(bare, calls)), remarks(graph) if graph else ()
    )
    if not report.replaced:
        raise TombolaError("the model has no ReLU, ReLU6 or Hardtanh to replace; build it with one of them")
    for parent, name, _ in swapped:
        old = parent._modules[name]
        assert old is not None
        parent._modules[name] = BinaryActivation().train(old.training)
    for module, (train, evaluate) in calls.items():
        _put_forward(module, train, evaluate)
    return model, report


def _swaps(model: nn.Module) -> list[tuple[nn.Module, str, str]]:
    """(parent, name in it, path) of every ReLU-like submodule."""
    swaps = []
    for path, parent in model.named_modules():
        for name, child in parent._modules.items():
            if isinstance(child, flow.RELU_LIKE):
                swaps.append((parent, name, f"{path}.{name}" if path else name))
    return swaps


def _forwards(model: nn.Module) -> dict[nn.Module, tuple[flow.Graph, flow.Graph]]:
    """The traced own forwards (train, eval) of all modules but torch's plain ones, children before parents.

    One that calls activations as functions and cannot be traced alone is traced as a part of what calls it.
    """
    forwards: dict[nn.Module, tuple[flow.Graph, flow.Graph]] = {}
    inline: set[nn.Module] = set()
    names = {module: path for path, module in model.named_modules()}
    for module in reversed(names):
        inside = [part for part in module.modules() if part is not module and part in inline] if inline else []
        if not inside and (type(module).__module__.startswith("torch.nn.") or flow.role_of(module) == "activation"):
            continue
        try:
            train, evaluate = (flow.own_calls(module, names[module], inline, mode) for mode in (True, False))
            forwards[module] = (train, evaluate)
        except flow.Untraceable as error:
            named = flow.mentioned(module)
            if module is model and (named or inside):
                culprit = next(part for part in (module, *inside) if flow.mentioned(part))
                raise TombolaError(
                    f"{flow.where(names[culprit])} calls {', '.join(flow.mentioned(culprit)[:3])} in a forward that "
                    f"torch.fx cannot follow ({error}); make these activations nn.ReLU submodules"
                ) from error
            if named or inside:
                inline.add(module)
    return forwards


def _check_others(model: nn.Module, graph: flow.Graph | None, graphs: Sequence[flow.Graph]) -> None:
    """TombolaError if another nonlinearity would stay, at the output aside (where the graph shows the output)."""
    if graph:
        final = _at_output(graph)
        others = [_named(graph, node) for node in graph if graph.role(node) == "nonlinear" and node not in final]
    else:
        modules = [(path, m) for path, m in model.named_modules() if flow.role_of(m) == "nonlinear"]
        others = [f"{path!r} (nn.{type(m).__name__})" for path, m in modules]
        calls = [(one, node) for one in graphs for node in one if flow.is_call(node)]
        others += [_named(one, node) for one, node in calls if one.role(node) == "nonlinear"]
    if others:
        raise TombolaError(
            f"{others[0]} has no binary form and would stay; use ReLU there "
            "(only the network's output may pass another nonlinear function)"
        )


def _check_output(graph: flow.Graph) -> None:
    """TombolaError if no layer with weights stands between an activation and the output."""
    final = _at_output(graph, through=("same", "max pool", "average pool", "dropout"))
    for node in graph:
        if graph.role(node) == "activation" and node in final:
            raise TombolaError(
                f"{graph.location(node)} is the network's output, which would be -1 and +1 only; "
                "put a layer after it, or take it off"
            )


def _check_in_place(graph: flow.Graph) -> None:
    """TombolaError if the input of an in-place activation is used later: it would not be overwritten any more."""
    order = {node: i for i, node in enumerate(graph)}
    for node in graph:
        source = flow.input_of(node) if graph.role(node) == "activation" else None
        if source and graph.in_place(node) and any(order[user] > order[node] for user in source.users):
            raise TombolaError(
                f"{graph.location(node)} works in place and its input is used again afterwards; "
                "use the activation's result there instead"
            )


def _at_output(graph: flow.Graph, through: Sequence[flow.Role] = ("same",)) -> set[fx.Node]:
    """The nodes whose value reaches the output, at most through nodes of these roles."""
    ends = [node for node in graph if node.op == "output"]
    reached: set[fx.Node] = set()
    while ends:
        for node in ends.pop().all_input_nodes:
            if node not in reached:
                reached.add(node)
                if graph.role(node) in through or isinstance(node.target, type):  # a container around the output
                    ends.append(node)
    return reached


def _functions(graph: flow.Graph) -> list[fx.Node]:
    """The ReLU-like function calls of a graph."""
    return [node for node in graph if flow.is_relu_call(node)]


def _named(graph: flow.Graph, node: fx.Node) -> str:
    kind = f" (nn.{type(graph.modules[str(node.target)]).__name__})" if node.op == "call_module" else ""
    return graph.location(node) + kind


def _module_rows(swapped: Sequence[tuple[nn.Module, str, str]], graph: flow.Graph | None) -> Iterator[Replaced]:
    calls = Counter(str(node.target) for node in graph or () if node.op == "call_module")
    first: dict[nn.Module | None, str] = {}
    for parent, name, path in swapped:
        module = parent._modules[name]
        if first.setdefault(module, path) == path:
            yield Replaced(f"nn.{type(module).__name__}", path, None if graph is None else calls[path])


def _function_rows(model: nn.Module, calls: Mapping[nn.Module, tuple[flow.Graph, flow.Graph]]) -> Iterator[Replaced]:
    for path, module in model.named_modules():
        if module in calls:
            train, evaluate = (Counter(map(flow.called, _functions(one))) for one in calls[module])
            for kind, times in (train | evaluate).items():
                yield Replaced(kind, path, times)


def _put_forward(module: nn.Module, train: flow.Graph, evaluate: flow.Graph) -> None:
    """Give the module a subclass of its class whose forward is the graphs', functions replaced by a submodule."""
    name = "binary_activation"
    while hasattr(module, name):
        name += "_"
    module.add_module(name, BinaryActivation().train(module.training))
    first, second = (_compiled(module, graph, name) for graph in (train, evaluate))
    kind = type(module)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (first if self.training else second)(self, *args, **kwargs)

    same = str(train.raw) == str(evaluate.raw)
    attributes = {"forward": first if same else forward, "__module__": kind.__module__, "__doc__": kind.__doc__}
    module.__class__ = type(f"Binary{kind.__name__}", (kind,), attributes)


def _compiled(module: nn.Module, graph: flow.Graph, name: str) -> Callable[..., Any]:
    """The forward of a graph as a function of (module, *inputs)."""
    for node in _functions(graph):
        with graph.raw.inserting_before(node):
            new = graph.raw.call_module(name, (flow.input_of(node),))
        node.replace_all_uses_with(new)
        graph.raw.erase_node(node)
    forward: Callable[..., Any] = type(fx.GraphModule(module, graph.raw)).forward
    return forward


# ---- rewrites as tickets hold them -------------------------------------------------------------------------


def _apply_activations(module: nn.Module, rewrite: Mapping[str, Any]) -> nn.Module:
    _check_keys(rewrite, {"kind"})
    return binary_activations(module)[0]


def _apply_layers(module: nn.Module, rewrite: Mapping[str, Any]) -> nn.Module:
    _check_keys(rewrite, {"kind", "names"})
    names = rewrite["names"]
    if (
        not isinstance(names, (list, tuple))
        or not names
        or not all(isinstance(n, str) and len(n) <= 1000 for n in names)
    ):
        raise TombolaError("rewrite 'binary-layers': names must be a list of one or more names of weights")
    use_binary_layers_(module, names)
    return module


def _check_keys(rewrite: Mapping[str, Any], allowed: set[str]) -> None:
    if rewrite.keys() != allowed:
        odd = sorted(map(str, rewrite.keys() ^ allowed))[0]
        raise TombolaError(
            f"rewrite {rewrite['kind']!r}: {odd[:80]!r} is {'missing' if odd in allowed else 'unknown'}; "
            f"its keys are {', '.join(sorted(allowed))}"
        )


REWRITES: Mapping[str, Callable[[nn.Module, Mapping[str, Any]], nn.Module]] = MappingProxyType(
    {"binary-activations": _apply_activations, "binary-layers": _apply_layers}
)
"""kind -> function of (module, rewrite) that returns the rewritten module; it may change the one given."""


def apply_rewrites(module: nn.Module, rewrites: Sequence[Mapping[str, Any]]) -> nn.Module:
    """The module after all rewrites in order, e.g. ({"kind": "binary-layers", "names": ["fc.weight"]},).

    The module given may be changed. Raises TombolaError: an unknown kind or key, or a rewrite that does not fit; all
    kinds are checked before anything is changed.
    """
    unknown = [repr(str(r.get("kind")))[:80] for r in rewrites if r.get("kind") not in REWRITES]
    if unknown:
        raise TombolaError(
            f"this Tombola does not know the rewrite {', '.join(unknown[:3])}; "
            f"it knows {', '.join(REWRITES)}: correct the kind, or update Tombola"
        )
    for rewrite in rewrites:
        module = REWRITES[rewrite["kind"]](module, rewrite)
    return module
