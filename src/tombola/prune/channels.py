"""Channels chosen and removed over everything that makes or reads them.

A channel rarely stands alone: an addition gives it to all layers of a residual stream, a depthwise convolution, a gate
or a norm hands it on, an attention takes all of a head. Such a coupled set, read from the traced network, is a unit
here. It is scored and kept or dropped as one, and a mask drops it everywhere: the rows, biases and norms that make it,
the columns that read it. `tombola.compact.compact` then really removes it (compare Fang et al. 2023, DepGraph, whose
groups come from walking autograd's graph).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx, nn

from tombola.compact.checks import plain_tensors
from tombola.compact.effective import plain_copy
from tombola.compact.inputs import Inputs
from tombola.errors import TombolaError, in_short
from tombola.fields import checked
from tombola.graph.call import checked_call, taking_tensors
from tombola.graph.copies import copied
from tombola.graph.coupling import Coupling, coupled_channels
from tombola.graph.ops import ChannelOp, Norm, Own, WeightLayer, opaque_places
from tombola.graph.read import channel_ops
from tombola.graph.trace import Untraceable, traced
from tombola.mask import Mask
from tombola.names import check_known
from tombola.parameters import check_plain, parameters_by_name, prunable, resolve
from tombola.select.checks import checked_density, checked_scores
from tombola.select.select import SCOPES, select


@dataclass(frozen=True, eq=False)
class Member:
    """What units have of a tensor: what stands at index i, j, ... of `axes` is of unit `units[i, j, ...]`; -1: of none.

    `scored`: it is a layer's weight, which tells how much a unit matters.
    """

    name: str
    axes: tuple[int, ...]
    units: Tensor
    scored: bool

    def over(self, values: Tensor) -> Tensor:
        """The units, of a shape that broadcasts over the whole tensor."""
        return self.units.reshape([n if axis in self.axes else 1 for axis, n in enumerate(values.shape)])

    def sums(self, values: Tensor, count: int) -> Tensor:
        """Of every unit, what its numbers of a tensor add up to, float64 (count,) on the CPU."""
        others = [axis for axis in range(values.dim()) if axis not in self.axes]
        each = values.detach().to("cpu", torch.float64).abs()
        each = each.sum(others) if others else each
        own = self.units >= 0
        return torch.zeros(count, dtype=torch.float64, device="cpu").index_add_(0, self.units[own], each[own])


@dataclass(frozen=True, eq=False)
class Units:
    """Sets of coupled channels that may go, numbered from 0.

    Args:
        family: int64 (units,): units of one family are rows of the same layers, such as the channels of a stream, the
            hidden units of a block, the heads of an attention.
        names: of each family, the first weight that makes it.
        members: where the units are in the network's tensors.
        opaque: what keeps its channels whole: place -> why.
    """

    family: Tensor
    names: tuple[str, ...]
    members: tuple[Member, ...]
    opaque: Mapping[str, str]

    @property
    def count(self) -> int:
        """How many units there are."""
        return len(self.family)

    @property
    def sizes(self) -> dict[str, int]:
        """Family -> how many units it has."""
        return dict(zip(self.names, self.family.bincount(minlength=len(self.names)).tolist(), strict=True))

    def scores(self, weights: Mapping[str, Tensor]) -> Tensor:
        """How much each unit matters, float64 (units,): 1 is the mean of its family.

        Over all layers' weights that make or read a unit, the mean of the sums of its |numbers|, each divided by the
        family's mean in that weight, so that neither the size of a layer nor its scale decides.

        Args:
            weights: a score for every number of every weight, by name; squared weights give group norms.
        """
        total, seen = (torch.zeros(self.count, dtype=torch.float64, device="cpu") for _ in range(2))
        for member in self.members:
            if not member.scored or member.name not in weights:
                continue
            there = torch.zeros(self.count, dtype=torch.float64, device="cpu")
            there[member.units[member.units >= 0]] = 1.0
            sums = member.sums(weights[member.name], self.count)
            families = [torch.zeros(len(self.names), dtype=torch.float64, device="cpu") for _ in range(2)]
            mean = families[0].index_add_(0, self.family, sums) / families[1].index_add_(0, self.family, there)
            total += torch.where(there > 0, (sums / mean[self.family]).nan_to_num(), 0.0)
            seen += there
        return total / seen.clamp(min=1.0)

    def mask(self, model: nn.Module, kept: Tensor) -> Mask:
        """The mask without the units that are not kept: over the prunable weights and the units' biases and norms.

        `kept`: bool (units,).
        """
        every, weights = parameters_by_name(model), prunable(model)
        concerned = {member.name for member in self.members} | set(weights)
        masks = {
            name: torch.ones(value.shape, dtype=torch.bool, device="cpu")
            for name, value in every.items()
            if name in concerned
        }
        for member in self.members:
            units = member.over(masks[member.name])
            masks[member.name] &= kept[units.clamp(min=0)] | (units < 0)
        return Mask(masks)


@checked
def prune_channels(
    model: nn.Module,
    *example: Any,
    named: Mapping[str, Any] | None = None,
    density: float | Mapping[str, float],
    scope: str = "layer",
    scores: Mapping[str, Tensor] | None = None,
    exclude: Sequence[str] = (),
    across_norms: bool = False,
) -> Mask:
    """The mask that keeps a share of a network's channels, heads and hidden units, whole: all that is coupled as one.

    The masked network, compacted (`tombola.compact.compact`), loses them for good and gives the same outputs. The model
    is neither changed nor trained. Channels that a layer norm takes its statistics over stay, as in the stream of a
    transformer, unless `across_norms` asks for them.

    Args:
        model: any that can be traced; its effective weights count.
        example: inputs as the network takes them, the batch first: as of `compact`.
        named: those that are given by name.
        density: fraction of the units that are kept: of each family, of all (scope "global"), or by family (as `sizes`
            of `channel_units` names them; others stay whole). At least one of each stays.
        scope: "layer": each family holds the density; "global": all together.
        scores: a number for every weight, by name: the larger, the sooner kept; None: the weights squared.
        exclude: shell-style patterns over names of weights whose outputs stay whole.
        across_norms: choose also channels that layer norms take statistics over. A network without them equals no
            masked one: cut it with `compact(..., across_norms=True)`, and train it on.

    Returns:
        Over the prunable weights, and the biases, norms and parameters of the units.

    Raises:
        TombolaError: the network cannot be traced or has no channel that can go, a density outside (0, 1], a name that
            there is not.

    >>> network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> mask = tb.prune_channels(network, torch.ones(1, 2), density=0.5)
    >>> mask.counts()
    {'0.weight': (4, 8), '0.bias': (2, 4), '2.weight': (2, 4)}
    """
    check_known("scope", scope, SCOPES)
    check_plain(model, exclude, written=False)
    plain, inputs = _plain(model, example, named)
    units = _units_of(plain, inputs, exclude, across_norms=across_norms)
    if scores is None:
        scores = {name: value.detach().abs().square() for name, value in plain.named_parameters() if value.numel()}
    _check_scores(scores := checked_scores(scores), plain)
    return units.mask(model, choose(units, units.scores(scores), density, scope))


def _check_scores(scores: Mapping[str, Tensor], model: nn.Module) -> None:
    """TombolaError for scores of no parameter of the model, or of another shape than its."""
    known = dict(model.named_parameters())
    for name, score in scores.items():
        if score.shape != resolve(known, name, "parameter").shape:
            raise TombolaError(
                f"the scores of {name!r} have shape {tuple(score.shape)}, and it has shape {tuple(known[name].shape)}; "
                "they must be equal"
            )


def choose(units: Units, scores: Tensor, density: float | Mapping[str, float], scope: str = "layer") -> Tensor:
    """Which units stay, bool (units,): the round(density·n) of largest score, and at least one of each family.

    Raises:
        TombolaError: a density outside (0, 1], a family that there is not, more families than units to keep.
    """
    best = torch.zeros(units.count, dtype=torch.bool, device="cpu")
    of_family = [(units.family == number).nonzero()[:, 0] for number in range(len(units.names))]
    if scope == "global":
        if isinstance(density, Mapping):
            raise TombolaError("densities by family go with scope 'layer'; give one number for scope 'global'")
        fewest, wanted = len(units.names), round(checked_density(density) * units.count)
        if wanted < fewest:
            raise TombolaError(
                f"density {density:g} of {units.count} units keeps {wanted}, but each of {fewest} families needs one; "
                f"ask for at least {fewest / units.count:.2g}"
            )
        for own in of_family:
            best[own[scores[own].argmax()]] = True
        first = torch.where(best, float(scores.max()) + 1.0, scores)
        return select({"units": first}, counts=wanted, scope="global")["units"]
    wanted_of = dict.fromkeys(units.names, density) if not isinstance(density, Mapping) else density
    for name in wanted_of:
        resolve(dict.fromkeys(units.names), name, "family of channels")
    counts = {
        name: max(1, round(checked_density(wanted_of.get(name, 1.0)) * len(own)))
        for name, own in zip(units.names, of_family, strict=True)
    }
    each = {name: scores[own] for name, own in zip(units.names, of_family, strict=True)}
    for own, kept in zip(of_family, select(each, counts=counts).values(), strict=True):
        best[own] = kept
    return best


def channel_units(
    model: nn.Module,
    *example: Any,
    named: Mapping[str, Any] | None = None,
    exclude: Sequence[str] = (),
    across_norms: bool = False,
) -> Units:
    """The units of a network, which stays as it is. Arguments and errors as of `prune_channels`."""
    return _units_of(*_plain(model, example, named), exclude, across_norms=across_norms)


def _plain(model: nn.Module, example: Sequence[Any], named: Mapping[str, Any] | None) -> tuple[nn.Module, Inputs]:
    """A copy with its effective weights, and the tensors that it takes."""
    call = checked_call(example, named or {})
    inputs = tuple(example) if call is None else call.inputs
    if not inputs:
        raise TombolaError("there is no example input; give one as the model takes it")
    with plain_tensors():
        plain = plain_copy(model if call is None else taking_tensors(copied(model), call), inputs)
        return plain, tuple(x.detach().clone() for x in inputs)


def _check_takes(plain: nn.Module, inputs: Inputs) -> None:
    """TombolaError if it is not the network that cannot be traced, but the example that it does not take."""
    try:
        with torch.no_grad():
            plain(*inputs)
    except Exception as error:  # a user's network may raise anything
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise TombolaError(
            f"the network refuses the example of shape {shapes} ({in_short(error)}); give it as its forward takes it"
        ) from error


def _units_of(plain: nn.Module, inputs: Inputs, exclude: Sequence[str], *, across_norms: bool) -> Units:
    with plain_tensors():
        try:
            network = traced(plain, inputs, [bool(x.dim()) and len(x) == len(inputs[0]) for x in inputs])
        except Untraceable as error:
            _check_takes(plain, inputs)
            raise TombolaError(
                f"the network's channels cannot be followed: {error}; rewrite its forward, or prune weights"
            ) from error
    ops = channel_ops(network, plain, training=False)
    return _units(ops, coupled_channels(ops, across_norms=across_norms), exclude, across_norms=across_norms)


def _units(
    ops: Mapping[fx.Node, ChannelOp], coupling: Coupling, exclude: Sequence[str], *, across_norms: bool
) -> Units:
    layers = {op.weight_name: coupling.values[node].labels for node, op in ops.items() if isinstance(op, WeightLayer)}
    whole = coupling.pinned.clone()
    for pattern in exclude:
        hits = [name for name in layers if fnmatchcase(name, pattern)]
        if not hits:
            raise TombolaError(f"exclude pattern {pattern!r} matches no layer's weight; there are: {_few(layers)}")
        for name in hits:
            whole[layers[name]] = True
    made = torch.zeros_like(whole)
    for labels in layers.values():
        made[labels] = True
    free, opaque = made & ~whole, opaque_places(ops, across_norms=across_norms)
    if not bool(free.any()):
        why = next((f" ({place}: {reason})" for place, reason in opaque.items()), "")
        raise TombolaError(f"no channel of the network can go{why}: what is between its layers keeps them whole")
    unit_of = torch.where(free, free.cumsum(0) - 1, -1)
    makers = {name: unit_of[labels] for name, labels in layers.items() if bool(free[labels].any())}
    family, names = _families(makers, int(free.sum()))
    every = (one for node, op in ops.items() for one in _members(node, op, coupling, unit_of))
    members = [one for one in every if bool((one.units >= 0).any())]
    return Units(family, names, tuple({(one.name, one.axes): one for one in members}.values()), opaque)


def _families(makers: Mapping[str, Tensor], count: int) -> tuple[Tensor, tuple[str, ...]]:
    """Units that are rows of one layer are of a family, in the order in which the network makes them."""
    rows = [(units[units >= 0], units[units >= 0].roll(1)) for units in makers.values()]
    ties = torch.cat([torch.stack(pair) for pair in rows], 1).numpy()
    graph = coo_array(([True] * ties.shape[1], (ties[0], ties[1])), shape=(count, count))
    found = torch.from_numpy(connected_components(graph, directed=False)[1]).long()
    order: dict[int, str] = {}
    for name, units in makers.items():
        order.setdefault(int(found[units[units >= 0][0]]), name)
    number_of = {one: number for number, one in enumerate(order)}
    return torch.tensor([number_of[one] for one in found.tolist()], device="cpu"), tuple(order.values())


def _members(node: fx.Node, op: ChannelOp, coupling: Coupling, unit_of: Tensor) -> Iterable[Member]:
    """What units have of the tensors that a node reads."""
    if isinstance(op, WeightLayer):
        out = unit_of[coupling.values[node].labels]
        yield Member(op.weight_name, (0,), out, scored=True)
        if op.bias_name is not None:
            yield Member(op.bias_name, (0,), out, scored=False)
        if op.groups == 1:
            yield Member(op.weight_name, (1,), unit_of[coupling.into[node].labels], scored=True)
    elif isinstance(op, Norm):
        out = unit_of[coupling.values[node].labels]
        for kind in ("weight", "bias"):
            if kind in op.tensors:
                yield Member(op.tensors[kind], (0,), out, scored=False)
    elif isinstance(op, Own) and node in coupling.values:
        channels = coupling.values[node]
        yield Member(op.name, channels.axes, unit_of[channels.labels], scored=False)


def _few(names: Iterable[str]) -> str:
    there = list(names)
    return ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
