"""Two searches that must begin with the same weights, so that what they keep can be compared."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tombola.data.splits import Splits
from tombola.errors import TombolaError
from tombola.levels.rewind import Rewind
from tombola.parameters import prunable
from tombola.search.driver import Workspace
from tombola.search.origin import start_from
from tombola.search.request import Request
from tombola.study.compare import check_arm
from tombola.study.setting import Arm
from tombola.ticket.tensors import hash_state


def check_same_start(arms: Sequence[Arm], request: Request, work: Workspace) -> None:
    """Each of two searches' own mistakes, and what keeps their masks from being compared."""
    if work.splits.test is None:
        raise TombolaError("the data has no test split, so no mask can be tested; give data with a test split")
    for arm in arms:
        check_arm(arm, request, work)
        if Rewind.parse(arm.method.rewind) != Rewind():
            raise TombolaError(
                f"rewind of arm {arm.name!r} is {arm.method.rewind}, but both masks must start from the same "
                "weights; set it to init"
            )
    names = " and ".join(arm.name for arm in arms)
    first, second = (network_of(arm, request, work.splits) for arm in arms)
    if hash_state(dict(first.state_dict())) != hash_state(dict(second.state_dict())):
        raise TombolaError(
            f"{names} start from different weights; leave out what changes the initialisation of one of them "
            "(scale_fan)"
        )
    layers, others = (
        list(prunable(network, arm.method.include, arm.method.exclude))
        for arm, network in zip(arms, (first, second), strict=True)
    )
    if layers != others:
        differing = sorted(set(layers) ^ set(others))
        raise TombolaError(f"{names} differ in {differing[0]!r}; set include and exclude alike")


def network_of(arm: Arm, request: Request, splits: Splits) -> nn.Module:
    """The network that an arm's search begins with."""
    return start_from(request.model, splits, seed=request.seed, method=arm.method).network()
