"""The same mask on all ranks of torch.distributed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.gradual.packed import packed, unpacked
from tombola.machine.ranks import Ranks
from tombola.mask import Mask
from tombola.ticket.tensors import hash_state


def present_ranks() -> Ranks:
    """The processes that train together now: one, before torch.distributed is initialised."""
    dist = torch.distributed
    if not dist.is_available() or not dist.is_initialized():
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size())


def are_alike(mask: Mask) -> bool:
    """Whether there are several ranks; TombolaError unless all of them, each of which must call it, have this mask."""
    ranks = present_ranks()
    if ranks.size > 1:
        ranks.agree(
            hash_state({name: packed(keep) for name, keep in mask.items()}),
            "the ranks hold masks that differ; make the Gradual after torch.distributed.init_process_group, or call "
            "agree() before training",
        )
    return ranks.size > 1


def mask_of_bits(bits: Mapping[str, Tensor], like: Mask) -> Mask:
    """The mask of packed bits, on the devices of another over the same layers."""
    if bits.keys() != like.keys():
        odd = sorted(bits.keys() ^ like.keys())
        raise TombolaError(
            f"the state is of other layers ({odd[0]!r} is in one only); make the Gradual with the same arguments"
        )
    return Mask({name: unpacked(name, bits[name], keep.shape).to(keep.device) for name, keep in like.items()})
