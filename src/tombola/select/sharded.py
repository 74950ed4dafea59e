"""Exact selection over scores that lie sharded over the ranks of torch.distributed.

No score is communicated, only histograms of keys and counts of ties. The ranks of the group, in order, hold
consecutive ranges of the flat scores; the result equals that of one process on the whole, ties included.

Nothing in the package calls it yet: it is the selection of data-parallel runs, whose parameters are sharded (FSDP).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from tombola.errors import TombolaError
from tombola.names import unknown
from tombola.select import radix

__all__ = ["keep_largest_sharded", "select_sharded"]

Group = dist.ProcessGroup | None


def keep_largest_sharded(local_scores: Tensor, k: int, group: Group = None) -> Tensor:
    """Bool like `local_scores`: which of this rank's scores are among the `k` largest of all ranks.

    Every rank of the group must call it, with the same dtype and k; a shard may be empty. Order and ties as
    in `topk.keep_largest`, a lower rank's shard lying before a higher one's.

    Raises:
        TombolaError: on every rank alike, for NaN anywhere, or k outside 0..n.
    """
    return _keep([local_scores], k, group)[0]


def select_sharded(
    local_scores: Mapping[str, Tensor], *, density: float, scope: str = "layer", group: Group = None
) -> dict[str, Tensor]:
    """`select` by element for layers each of which is sharded over the ranks: name -> bool like this rank's
    shard.

    Every rank must give the same names in the same order. Ties: earlier layer, then lower rank, then lower
    index.

    Raises:
        TombolaError: on every rank alike, for a density outside (0, 1], an unknown scope, or NaN anywhere.
    """
    if scope not in ("layer", "global"):
        raise TombolaError(unknown("scope", scope, ("layer", "global")))
    if not 0 < density <= 1:
        raise TombolaError(f"density is {density!r}; it must lie in (0, 1]: the fraction of weights KEPT")
    shards = list(local_scores.values())
    if not shards:
        raise TombolaError("there are no scores to select from; give at least one layer")
    sizes = _total(torch.tensor([shard.numel() for shard in shards], device=shards[0].device), group).tolist()
    if scope == "global":
        return dict(zip(local_scores, _keep(shards, round(density * sum(sizes)), group), strict=True))
    return {
        name: _keep([shard], round(density * size), group)[0]
        for (name, shard), size in zip(local_scores.items(), sizes, strict=True)
    }


def _keep(shards: list[Tensor], k: int, group: Group) -> list[Tensor]:
    """The `k` largest over all shards and ranks; position: (shard, rank, index)."""
    device = shards[0].device
    shards = [shard.detach() for shard in shards]
    n = sum(shard.numel() for shard in shards)
    bad = sum(radix.nan_count(shard) for shard in shards)
    n, bad = _total(torch.tensor([n, bad], device=device), group).tolist()
    radix.refuse(k, n, bad)
    if k in (0, n):
        return [torch.full(shard.shape, k > 0, dtype=torch.bool, device=shard.device) for shard in shards]
    keys = [radix.keys(shard) for shard in shards]
    value, wanted = radix.threshold(torch.cat(keys), k, lambda counts: _total(counts, group))
    ties = torch.stack([torch.count_nonzero(key == value) for key in keys])
    before = _ties_before(ties, group)
    return [
        radix.mark(key, value, max(0, wanted - int(ahead))).view(shard.shape)
        for key, ahead, shard in zip(keys, before, shards, strict=True)
    ]


def _ties_before(ties: Tensor, group: Group) -> list[int]:
    """From this rank's ties per shard: how many ties lie before this rank's part of each shard."""
    everyone = [torch.empty_like(ties) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, ties, group=group)
    flat = torch.stack(everyone, dim=1).view(-1)  # shard by shard, ranks in order within
    before = (flat.cumsum(0) - flat).view(len(ties), -1)
    return [int(count) for count in before[:, dist.get_rank(group)]]


def _total(counts: Tensor, group: Group) -> Tensor:
    counts = counts.clone()
    dist.all_reduce(counts, group=group)
    return counts
