"""How much each layer of a trained network matters, as a result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tombola import formats

ACCURACY, ERROR = MEASURES = ("accuracy", "output_error")


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer pruned alone: the measure at each density, in their order."""

    name: str
    weights: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class Sensitivity:
    """Each layer's accuracy, a fraction, or output error, |before - after|² / |before|², against its density.

    `dense`: of the whole network: its accuracy, or error 0. `densities` fall.
    """

    measure: str
    dense: float
    densities: tuple[float, ...]
    layers: tuple[LayerSensitivity, ...]
    criterion: str
    pattern: str

    def losses(self) -> dict[str, tuple[float, ...]]:
        """Layer -> what it loses at each density: accuracy, as a fraction, or output error."""
        if self.measure == ERROR:
            return {layer.name: layer.values for layer in self.layers}
        return {layer.name: tuple(self.dense - value for value in layer.values) for layer in self.layers}

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def __str__(self) -> str:
        heads = [formats.density(density).replace(".00", "") for density in self.densities]
        rows = [("layer", "weights", *heads)]
        rows += [(one.name, formats.count(one.weights), *map(formats.percent, one.values)) for one in self.layers]
        error = "error of the network's output, |before - after|² / |before|²"
        what = "accuracy" if self.measure == ACCURACY else error
        whole = f"; {formats.percent(self.dense)} with all whole" if self.measure == ACCURACY else ""
        return "\n".join([*formats.aligned(rows), "", f"{what}, that share kept of one layer's weights{whole}"])
