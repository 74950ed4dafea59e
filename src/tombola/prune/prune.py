"""Prune a trained network in one shot: a criterion or a reconstruction, calibration data, one mask."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tombola import formats
from tombola.data.task import Loss
from tombola.errors import TombolaError
from tombola.fields import check_counts, checked
from tombola.hold import Hold, hold, release
from tombola.mask import Mask
from tombola.parameters import resolve, unwrap
from tombola.prune.calibration import Calibration, Data, read
from tombola.prune.choose import check_density, check_scope, choose
from tombola.prune.layers import Layer, layers_of
from tombola.prune.measure import output_errors
from tombola.prune.norms import renew_norms
from tombola.prune.probe import Probe
from tombola.prune.reconstruct import reconstruct_
from tombola.rng.seeds import checked_seed, generator
from tombola.runs.versions import versions
from tombola.select.criteria import Criterion
from tombola.select.criteria import criterion as criterion_of
from tombola.select.patterns import Element, Pattern, parse_pattern
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.ticket import Ticket

RECONSTRUCTION = "sparse_gpt"
"""The one name that is no criterion: kept weights change too."""


@dataclass(frozen=True)
class PrunedLayer:
    """What became of one weight.

    `error`: squared error of its layer's output over that output's squares, for what the layer took in before pruning;
    None where no calibration data show it.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    total: int
    error: float | None


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned copy of a network, its mask, and what it cost; `str` gives the table.

    `error`: that of the network's own output on the calibration data; None without any. `norms`: layers whose
    statistics were estimated anew. `how`: the settings, JSON-able.
    """

    model: nn.Module
    mask: Mask
    layers: tuple[PrunedLayer, ...]
    error: float | None
    norms: int
    how: Mapping[str, Any]

    def ticket(self, *, origin: nn.Module | None = None, network: NetworkSpec | None = None) -> Ticket:
        """The mask and the weights as one ticket, to be saved, built and deployed.

        Args:
            origin: the network before pruning, for a ticket that also holds what it started from, as `verify` and
                searches that go on need; without it the file is small, and for running and fine-tuning only.
            network: what it is built by, where it has a name; else `Ticket.build` takes `model=`.
        """
        start = Origin.stored(unwrap(self.model if origin is None else origin), network=network)
        told = {"method": {"name": "prune", **self.how}, "versions": versions()}
        whole = Ticket.from_models(origin=start, mask=self.mask, final_state=self.model.state_dict(), provenance=told)
        return whole if origin is not None else whole.without_origin()

    def held(self) -> Hold:
        """Hold the mask on `model` while it is fine-tuned: see `tb.hold`."""
        return hold(self.model, self.mask)

    def __str__(self) -> str:
        rows = [("layer", "shape", "kept", "total", "density", "output error")]
        for layer in self.layers:
            density = formats.density(layer.kept / max(layer.total, 1))
            shape = "x".join(map(str, layer.shape)) or "1"
            counts = formats.count(layer.kept), formats.count(layer.total)
            rows.append((layer.name, shape, *counts, density, _share(layer.error)))
        total = formats.count(self.mask.kept), formats.count(self.mask.total), formats.density(self.mask.density)
        rows.append(("network", "", *total, _share(self.error)))
        note = "output error = |before - after|² / |before|², a layer's for the inputs that it had before"
        renewed = f"; {formats.plural(self.norms, 'norm')} with new statistics" if self.norms else ""
        return "\n".join([*formats.ruled(rows, left=(0, 1)), note + renewed])


def _share(error: float | None) -> str:
    return formats.MISSING if error is None else formats.percent(error) if error < 10 else formats.significant(error)


@checked
def prune(
    model: nn.Module,
    calibration: Data | None = None,
    *,
    density: float | Mapping[str, float] | None = None,
    criterion: str | Criterion = "magnitude",
    scope: str | None = None,
    pattern: str | Pattern = "element",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    samples: int | None = None,
    loss: Loss | None = None,
    norms: bool = True,
    errors: bool = True,
    seed: int = 0,
) -> Pruned:
    """Prune a trained network in one shot; no training, and no labels unless the criterion needs them.

    Args:
        model: copied, and left as it is.
        calibration: inputs like those of later use: batches (tensors, tuples that end in labels or not, mappings of
            arguments), one batch, or a data set (a name, DataSpec or Splits), of which training examples are drawn.
            Magnitude needs none, and then says nothing of errors.
        density: fraction of weights kept, in (0, 1]: of every layer, or name -> its own; layers that are not named
            stay whole. N:M fixes it.
        criterion: a criterion's name or import path, "magnitude" and "wanda" (|w| times the norm of what it multiplies;
            Sun et al. 2024) among them, or "sparse_gpt" (Frantar & Alistarh 2023), by which kept weights make up for
            pruned ones, layer by layer.
        scope: "row" (every output row holds the density, to one weight), "layer" or "global"; by default "row" for
            wanda with single weights, else "layer".
        pattern: "element", "block:V", "N:M" or "channel"; rows are outputs in every kind of layer.
        include, exclude: as in `prunable`.
        samples: at most so many examples, by whole batches; by default 512 of a data set, else all.
        loss: of (output, labels) for criteria of gradients; by default the data set's, else cross-entropy.
        norms: estimate the running statistics of norms anew, from the calibration data, in the pruned network.
        errors: measure the output errors, which takes the time of three passes over the calibration data.
        seed: of examples that are drawn, and of a criterion that draws.

    Raises:
        TombolaError: a density out of range, settings that do not go together, calibration data that the network
            refuses or that never reach a layer, labels that are missing.

    >>> network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> pruned = tb.prune(network, torch.randn(64, 8), density=0.5, criterion="wanda")
    >>> pruned.mask, pruned.ticket()
    (Mask(2 layers, 96 of 192 kept, density 0.5), Ticket(found by prune, 96 of 192 kept, density 0.5))
    """
    form, own = parse_pattern(pattern), unwrap(model)
    rebuilds = isinstance(criterion, str) and criterion.replace("-", "_") == RECONSTRUCTION
    over = _scope(scope, criterion, rebuilds, form)
    check_density(density, form)
    check_counts(samples=samples)
    network = _copied(own)
    layers = layers_of(network, include, exclude)
    data = None if calibration is None else read(calibration, network, samples, loss, checked_seed(seed))
    chosen, each = _densities(layers, density)
    if rebuilds:
        if data is None:
            raise TombolaError("sparse_gpt needs calibration data; give batches of inputs")
        found = reconstruct_(network, chosen, data, each, form)
    else:
        probe = Probe(network, chosen, data, seed)
        scores = criterion_of(criterion)(probe.context())
        found = choose(scores, chosen, each, over, form, generator(seed, "fill"))
    mask = Mask(
        {name: found.get(name, torch.ones_like(layer.weight, dtype=torch.bool)) for name, layer in layers.items()}
    )
    mask.apply_(network)
    renewed = renew_norms(network, data) if norms and data is not None else 0
    local, whole = _errors(own, network, layers, data) if errors else ({}, None)
    how = {
        "criterion": criterion if isinstance(criterion, str) else getattr(criterion, "__name__", "custom"),
        "density": dict(density) if isinstance(density, Mapping) else density,
        "scope": over,
        "pattern": str(form),
        "samples": 0 if data is None else sum(batch.size for batch in data.batches),
        "norms": renewed,
    }
    return Pruned(network.train(own.training), mask, _rows(mask, local), whole, renewed, how)


def _scope(scope: str | None, criterion: str | Criterion, rebuilds: bool, pattern: Pattern) -> str:
    if scope is None:
        return "row" if criterion == "wanda" and isinstance(pattern, Element) else "layer"
    check_scope(scope, pattern)
    if rebuilds and scope != "layer":
        raise TombolaError(f"sparse_gpt prunes layer by layer; use scope 'layer', not {scope!r}")
    return scope


def _copied(model: nn.Module) -> nn.Module:
    try:
        copied = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise TombolaError(
            f"the model cannot be copied ({str(error).splitlines()[0]}); make what was attached to it plain first, "
            "e.g. with torch.nn.utils.prune.remove"
        ) from None
    release(copied)
    return copied


def _densities(
    layers: Mapping[str, Layer], density: float | Mapping[str, float] | None
) -> tuple[dict[str, Layer], float | Mapping[str, float] | None]:
    """The layers to prune, and how much is kept of them."""
    if not isinstance(density, Mapping):
        return dict(layers), density
    for name in density:
        resolve(layers, name, "prunable layer")
    return {name: layer for name, layer in layers.items() if name in density}, density


def _errors(
    before: nn.Module, after: nn.Module, layers: Mapping[str, Layer], data: Calibration | None
) -> tuple[dict[str, float], float | None]:
    if data is None:
        return {}, None
    return output_errors(_copied(before), after, layers, data)


def _rows(mask: Mask, errors: Mapping[str, float]) -> tuple[PrunedLayer, ...]:
    return tuple(
        PrunedLayer(name, tuple(mask[name].shape), kept, total, errors.get(name))
        for name, (kept, total) in mask.counts().items()
    )
