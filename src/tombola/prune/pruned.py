"""A pruned network: the copy, its mask, what it cost, and the ticket of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tombola import formats
from tombola.hold import Hold, hold
from tombola.mask import Mask
from tombola.parameters import parameters_by_name, unwrap
from tombola.runs.versions import versions
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.ticket import Ticket


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
    statistics were estimated anew. `how`: the settings, JSON-able. `input_shape`: of one input, where the network takes
    one tensor; the ticket records it, so that `deploy` need not be told.
    """

    model: nn.Module
    mask: Mask
    layers: tuple[PrunedLayer, ...]
    error: float | None
    norms: int
    how: Mapping[str, Any]
    input_shape: tuple[int, ...] | None = None

    def ticket(self, *, origin: nn.Module | None = None, network: NetworkSpec | None = None) -> Ticket:
        """The mask and the weights as one ticket, to be saved, built and deployed.

        Args:
            origin: the network before pruning, for a ticket that also holds what it started from, as `verify` and
                searches that go on need; without it the file is small, and for running and fine-tuning only.
            network: what it is built by, where it has a name; else `Ticket.build` takes `model=`.
        """
        final = _on_cpu(self.model)
        start = Origin.stored(final if origin is None else _on_cpu(unwrap(origin)), network=network)
        size = sum(parameter.numel() for parameter in parameters_by_name(self.model).values())
        told: dict[str, Any] = {"method": {"name": "prune", **self.how}, "parameters": size, "versions": versions()}
        if self.input_shape is not None:
            told["input_shape"] = list(self.input_shape)
        whole = Ticket.from_models(origin=start, mask=self.mask, final_state=final.state_dict(), provenance=told)
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
        return "\n".join([*formats.ruled(rows, left=(0, 1)), note + renewed, *self._counted()])

    def _counted(self) -> list[str]:
        """What the density that was asked for counts, where that is not weights."""
        density, what = self.how.get("density"), _COUNTED.get(str(self.how.get("pattern")))
        return [f"the density asked for, {density:g}, counts {what}"] if what and isinstance(density, float) else []


_COUNTED = {
    "channel": "channels, coupled ones as one; the table counts weights, and those that read a dropped channel go too",
    "head": "attention heads; the table counts weights, and layers without heads stay whole",
}
"""Pattern -> what a density is of, where it is no share of the weights."""


def _on_cpu(model: nn.Module) -> nn.Module:
    """The model, or a copy where it is elsewhere, whose tied weights stay tied."""
    there = all(tensor.device.type == "cpu" for tensor in (*model.parameters(), *model.buffers()))
    return model if there else copy.deepcopy(model).to("cpu")


def rows_of(mask: Mask, errors: Mapping[str, float]) -> tuple[PrunedLayer, ...]:
    """A row for every layer of the mask, with its error where it has one."""
    return tuple(
        PrunedLayer(name, tuple(mask[name].shape), kept, total, errors.get(name))
        for name, (kept, total) in mask.counts().items()
    )


def _share(error: float | None) -> str:
    return formats.MISSING if error is None else formats.percent(error) if error < 10 else formats.significant(error)
