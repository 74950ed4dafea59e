"""prune: a trained network in one shot, with calibration data, as one ticket."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.budgets import add_budget, check_budget, prune_to_budget
from tombola.cli.options import Group, listed
from tombola.cli.screen import Screen, loading
from tombola.cli.searches import DATA
from tombola.cli.tickets import add_values
from tombola.cli.verb import Verb
from tombola.data.config import DataSpec
from tombola.models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

    from tombola.data.splits import Splits
    from tombola.search.origin import Start

NETWORK = Group("network", ModelSpec, {"args": "model_args"}, skip=("name", "init"))

MODEL = "one of Tombola's networks, torchvision/NAME, timm/NAME, or an import path of a constructor"
_SETTINGS = ("density", "criterion", "scope", "pattern", "samples", "norms", "seed")


def verbs() -> list[Verb]:
    """`prune`."""
    return [Verb(("prune",), "Prune a trained network in one shot, without training, to a ticket.", _add, _run)]


def _add(parser: ArgumentParser) -> None:
    parser.add_argument("model", type=str, help=MODEL)
    NETWORK.add(parser)
    DATA.add(parser)
    group = parser.add_argument_group("pruning")
    group.add_argument(
        "--density",
        type=float | dict[str, float] | None,
        default=None,
        help="fraction of weights kept, or {layer: fraction}, where other layers stay whole (null: N:M fixes it)",
    )
    group.add_argument(
        "--criterion",
        type=str,
        default="magnitude",
        help="a criterion's name, such as magnitude or wanda, its import path, or sparse_gpt",
    )
    group.add_argument(
        "--scope", type=str | None, default=None, help="row, layer or global (null: row for wanda, else layer)"
    )
    group.add_argument(
        "--pattern", type=str, default="element", help="element, block:V, inputs:V, N:M, channel or head"
    )
    add_layers_and_samples(group)
    group.add_argument(
        "--norms",
        type=bool | None,
        nargs="?",
        const=True,
        default=None,
        help="estimate the running statistics of norms anew in the pruned network (null: if outputs come nearer)",
    )
    group.add_argument("--seed", type=int, default=0, help="draws the examples; a criterion that draws derives from it")
    add_budget(parser)
    parser.add_argument("--out", type=str, required=True, help="the ticket's file")
    add_values(parser)
    parser.add_argument(
        "--origin",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="hold the dense weights too, which `find --start` goes on from; the file is as large as they are",
    )


def _run(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    check_budget(given)
    with loading(None):
        from tombola.prune import prune
        from tombola.prune.goals import dense_bytes
        from tombola.runs.atomic import check_file
        from tombola.search.request import loaded

    check_file(Path(given["out"]))
    splits = loaded(DataSpec(**DATA.read(given)))
    start = started(given, splits)
    model = start.network().eval()
    chosen: dict[str, Any] = {"include": listed(given["include"]), "exclude": listed(given["exclude"])}
    settings = {name: given[name] for name in _SETTINGS}
    reached = prune_to_budget(given, model, splits, chosen, start.origin.network)
    pruned = prune(model, splits, **chosen, **settings) if reached is None else reached.pruned
    ticket = pruned.ticket(origin=model if given["origin"] else None, network=start.origin.network)
    digest = ticket.save(given["out"], given["values"])
    final = pruned.model
    if given["values"] is not None:
        final = ticket.rounded(given["values"]).build(model=pruned.model)
    before, after = (None, None) if reached is None or reached.accuracy is None else reached.accuracy
    before = validated(model, splits) if before is None else before
    after = validated(final, splits) if after is None or final is not pruned.model else after
    size, dense = Path(given["out"]).stat().st_size, dense_bytes(model)
    metric = splits.task.metric_name
    screen.line(str(pruned))
    if reached is not None:
        screen.line(str(reached))
    screen.line(change(metric, before, after))
    screen.line(f"{given['out']}: {size:,} bytes; its tensors have {dense:,}")
    return {
        "file": given["out"],
        "bytes": size,
        "dense": dense,
        "digest": digest,
        "density": pruned.mask.density,
        "metric": metric,
        "val_before": before,
        "val_after": after,
        "error": pruned.error,
        "layers": {
            layer.name: {"kept": layer.kept, "total": layer.total, "error": layer.error} for layer in pruned.layers
        },
        **({} if reached is None else reached.as_dict()),
    }


def add_layers_and_samples(group: Any) -> None:
    """Which layers are pruned, and on how many examples."""
    group.add_argument("--include", type=list[str] | str, default=[], help="patterns of names to prune too")
    group.add_argument("--exclude", type=list[str] | str, default=[], help="patterns of names to leave whole")
    group.add_argument("--samples", type=int, default=512, help="training examples to calibrate with")


def started(given: Namespace, splits: Splits) -> Start:
    """The network and its weights, which must be somebody's; one line where only its constructor can have them."""
    from tombola.errors import TombolaError
    from tombola.models.registry import is_known
    from tombola.search.origin import start_from

    if is_known(given["model"]) and given["checkpoint"] is None:
        raise TombolaError(f"{given['model']} has no trained weights of its own; give its --checkpoint")
    if given["checkpoint"] is None:
        warnings.warn(f"no checkpoint: weights are those that {given['model']} is made with", stacklevel=2)
    return start_from(ModelSpec(given["model"], **NETWORK.read(given)), splits, seed=given["seed"])


def validated(model: nn.Module, splits: Splits) -> float:
    """The metric on the validation split."""
    import torch

    from tombola.train.evaluate import evaluate
    from tombola.train.feeds import evaluation_feed

    return evaluate(model, evaluation_feed(splits, splits.val, torch.device("cpu"), False), splits.task).metric


def change(metric: str, before: float, after: float) -> str:
    """The metric before and after, in a line."""
    from tombola.formats import Unit

    unit = Unit(metric)
    difference = f"{unit.difference(after - before)}{unit.points}"
    return f"validation {metric}: {unit.show(before)} before, {unit.show(after)} after ({difference})"
