"""A trained network on which densities of its layers are tried, in place, and what they do to its output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.parameters import check_plain, unwrap
from tombola.prune.calibration import Data, read
from tombola.prune.choose import choose
from tombola.prune.copies import copied
from tombola.prune.how import by_layer, how_of
from tombola.prune.layers import Layer, layers_of
from tombola.prune.measure import Error
from tombola.prune.probe import Probe
from tombola.prune.watch import watching
from tombola.rng.seeds import checked_seed, generator
from tombola.select.criteria import Criterion
from tombola.select.criteria import criterion as criterion_of
from tombola.select.patterns import NM, Pattern


class Tried:
    """A copy of a network with one score for each weight: setting densities masks it, and errors are of its output.

    Weights are scored once, in the whole network; norms keep their statistics.

    Args:
        model: copied, and left as it is.
        data: what the criterion and the errors are taken on, as of `tb.prune`: of a data set, training examples.
        criterion, pattern, include, exclude, samples: as of `tb.prune`.
        seed: of examples that are drawn, and of a criterion that draws.

    Raises:
        TombolaError: as `tb.prune`; a criterion that changes kept weights, which has no scores.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        *,
        criterion: str | Criterion = "magnitude",
        pattern: str | Pattern = "element",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        samples: int | None = None,
        seed: int = 0,
    ) -> None:
        form = by_layer(pattern)
        how = how_of(criterion, None if isinstance(form, NM) else 1.0, None, form)
        if how.rebuilds:
            raise TombolaError("sparse_gpt has no scores to try densities by; take magnitude or wanda for that")
        check_plain(model, exclude)
        self.network = copied(unwrap(model))
        self.layers: Mapping[str, Layer] = layers_of(self.network, include, exclude)
        self.data = read(data, self.network, samples, None, checked_seed(seed))
        self._pattern, self._scope = form, how.scope
        self._fill = generator(seed, "fill")
        self._weights = {name: layer.weight.detach().clone() for name, layer in self.layers.items()}
        self._scores = criterion_of(criterion)(Probe(self.network, self.layers, self.data, seed).context())
        self._densities = dict.fromkeys(self.layers, 1.0)
        with watching(self.network):
            self._outputs = [batch.call(self.network) for batch in self.data.batches]

    @property
    def sizes(self) -> dict[str, int]:
        """Weights by layer."""
        return {name: weight.numel() for name, weight in self._weights.items()}

    def densities(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Those at which so many weights are kept, and one unit of the pattern at least."""
        return {name: max(counts[name] / size, 1 / self._units(name)) for name, size in self.sizes.items()}

    @torch.no_grad()
    def set_(self, densities: Mapping[str, float]) -> None:
        """Mask the layers that are named; those that are not, and those of density 1, are whole."""
        for name, layer in self.layers.items():
            density = densities.get(name, 1.0)
            if density == self._densities[name]:
                continue
            weight = self._weights[name]
            if density < 1:
                weight = weight * self._kept(name, layer, density)
            layer.weight.copy_(weight)
            self._densities[name] = density

    def error(self, share: float = 1.0) -> float:
        """|before - after|² / |before|² of the output, over that share of the batches, at least one."""
        count = max(1, math.ceil(share * len(self._outputs)))
        error = Error()
        with watching(self.network):
            for batch, before in zip(self.data.batches[:count], self._outputs, strict=False):
                error.add(before, batch.call(self.network))
        return error.value

    def _units(self, name: str) -> int:
        rows = self.layers[name].matrix(self.layers[name].rows(self._weights[name]))
        return rows.numel() if isinstance(self._pattern, NM) else self._pattern.units(rows.shape)

    def _kept(self, name: str, layer: Layer, density: float) -> Tensor:
        scores, layers = {name: self._scores[name]}, {name: layer}
        each = None if isinstance(self._pattern, NM) else density
        return choose(scores, layers, each, self._scope, self._pattern, self._fill)[name]
