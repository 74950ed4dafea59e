"""prune --keep_accuracy, --faster or --file: budgets in the user's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from tombola.errors import TombolaError

if TYPE_CHECKING:
    from torch import nn

    from tombola.data.splits import Splits
    from tombola.prune.budget import Reached
    from tombola.ticket.origin import NetworkSpec

_BUDGETS = ("keep_accuracy", "faster", "file")


def add_budget(parser: ArgumentParser) -> None:
    """The options of a budget, instead of a density."""
    group = parser.add_argument_group("budget, instead of a density: exit status 3 where only the nearest is reached")
    group.add_argument(
        "--keep_accuracy", type=float | None, default=None, help="points lost at most on the validation split"
    )
    group.add_argument(
        "--faster", type=float | None, default=None, help="times as fast as eager torch at batch 1, deployed here"
    )
    group.add_argument(
        "--file",
        type=str | int | None,
        default=None,
        help="the ticket's size at most: 5MB, or 25%% of the network's tensors",
    )
    group.add_argument(
        "--allocation",
        type=str,
        default="sensitivity",
        help="how densities are spread over layers: sensitivity, uniform or evolution",
    )
    group.add_argument("--trials", type=int, default=8, help="at most so many densities are tried")


def check_budget(given: Namespace) -> None:
    """TombolaError for options that do not go with a budget."""
    asked = [name for name in _BUDGETS if given[name] is not None]
    if not asked:
        return
    for name, unset in (("density", None), ("scope", None), ("norms", None)):
        if given[name] != unset:
            raise TombolaError(f"--{name} does not go with --{asked[0]}, which searches for densities; leave it out")
    if given["origin"] and "file" in asked:
        raise TombolaError("--origin does not go with --file: the dense weights would be in the file; leave it out")


def prune_to_budget(
    given: Namespace,
    model: nn.Module,
    splits: Splits,
    chosen: Mapping[str, Any],
    network: NetworkSpec | None,
) -> Reached | None:
    """The network pruned to the budget that is asked for; None without one."""
    asked = {name: given[name] for name in _BUDGETS if given[name] is not None}
    if not asked:
        return None
    from tombola.prune import prune_to
    from tombola.runs.progress import show_progress

    settings = {name: given[name] for name in ("criterion", "pattern", "samples", "allocation", "trials", "seed")}
    with show_progress() as bar:
        return prune_to(
            model, splits, **asked, **chosen, **settings, values=given["values"], network=network, progress=bar
        )
