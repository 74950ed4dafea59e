"""A training's state carried over to the same network made smaller: weights, optimiser, generators, step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from tombola.compact import cut
from tombola.compact.slim import Slim
from tombola.train.checkpoint import Snapshot


def small_snapshot(point: Snapshot, network: nn.Module, small: Slim) -> Snapshot | int:
    """The same moment of a training of the small network; its step alone where its optimiser's state cannot be cut.

    Momentum and second moments are cut to the indices that their weights keep, numbers stay as they are. The step alone
    starts with the small network as it is, and a fresh optimiser.

    Args:
        point: of the whole network's training, by one group of all parameters that require a gradient.
        network: the whole one, of any values.
    """
    state = _small_state(point.optimizer, _trained(network), _trained(small.module), small)
    if state is None:
        return point.step
    model = cut({name: point.model[name] for name in small.module.state_dict()}, small.kept)
    return replace(point, model=model, optimizer=state, hooks=())


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """In the order in which an optimiser of the loop has them."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _small_state(
    state: Mapping[str, Any], whole: Mapping[str, Tensor], left: Mapping[str, Tensor], small: Slim
) -> dict[str, Any] | None:
    groups, numbers = state["param_groups"], {name: i for i, name in enumerate(whole)}
    if len(groups) != 1 or list(groups[0]["params"]) != list(range(len(whole))) or not left.keys() <= whole.keys():
        return None
    made: dict[int, dict[str, Any]] = {}
    for i, name in enumerate(left):
        own = state["state"].get(numbers[name], {})
        parts = {key: _part(value, name, whole[name], small) for key, value in own.items()}
        if any(part is None and own[key] is not None for key, part in parts.items()):
            return None
        if own:
            made[i] = parts
    return {"state": made, "param_groups": [{**groups[0], "params": list(range(len(left)))}]}


def _part(value: Any, name: str, parameter: Tensor, small: Slim) -> Any:
    """None for a tensor that is neither of the parameter's shape nor one number."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return cut({name: value}, small.kept)[name] if value.shape == parameter.shape else None
