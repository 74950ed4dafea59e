"""The sparse engine as a kernel."""

from __future__ import annotations

from collections.abc import Iterator

from tombola.deploy.kernels.kernel import Kernel, reference
from tombola.deploy.kernels.sparse.candidates import candidates, splits
from tombola.deploy.kernels.sparse.choices import Choices, layers, supports
from tombola.deploy.kernels.sparse.geometry import shapes_of
from tombola.deploy.kernels.sparse.tune import build
from tombola.deploy.ops import Region


def every(region: Region, batch: int, threads: int) -> Iterator[Choices]:
    """Choices among which each candidate of each layer occurs."""
    shapes = shapes_of(region)
    for split in splits(region, batch, threads):
        tried = {op.target: candidates(op, shapes[op.target], split) for op in layers(region)}
        for i in range(max([1, *map(len, tried.values())])):
            yield Choices(split, {target: ways[i % len(ways)] for target, ways in tried.items()})


SPARSE = Kernel("sparse", supports, every, build, reference)
