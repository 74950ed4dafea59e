"""The masked weights of a model, and its parameters and state under the names from before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tombola.errors import TombolaError
from tombola.parameters import parameters_by_name, unwrap
from tombola.supermask.parametrization import Supermask

_PARAMETRISED = re.compile(r"((?:.*?\.)?)parametrizations\.([^.]+)\.(.+)")  # module, weight, what belongs to it
NOT_ATTACHED = "no supermasks are attached to this model; call attach first"


class Groups(NamedTuple):
    """The parameters that learn: `[{"params": groups.scores, "lr": 0.1}, {"params": groups.weights, "lr": 0.01}]`.

    `weights` holds everything else that is trained; it is empty where nothing is.
    """

    scores: list[nn.Parameter]
    weights: list[nn.Parameter]

    def __repr__(self) -> str:
        return f"Groups({len(self.scores)} scores, {len(self.weights)} weights)"


class MaskedLayer(NamedTuple):
    """One masked weight: its name before anything was attached, its supermask, and the latent weight."""

    name: str
    supermask: Supermask
    weight: nn.Parameter


def layers(model: nn.Module) -> Iterator[MaskedLayer]:
    """Every masked weight once, in the order in which they were attached; wrappers are looked through."""
    masked: dict[int, MaskedLayer] = {}
    for module in unwrap(model).modules():
        if isinstance(module, parametrize.ParametrizationList):
            supermask = module._modules["0"]
            if isinstance(supermask, Supermask) and id(supermask) not in masked:
                weight = module._parameters["original"]
                assert weight is not None
                masked[id(supermask)] = MaskedLayer(supermask.name, supermask, weight)
    yield from sorted(masked.values(), key=lambda layer: layer.supermask.position)


def named_layers(model: nn.Module) -> list[MaskedLayer]:
    """All layers under their names in `model`, which parts that were attached by themselves do not know."""
    masked = list(layers(model))
    if not masked:
        raise TombolaError(NOT_ATTACHED)
    names = {id(weight): name for name, weight in parameters_by_name(model).items()}
    return [layer._replace(name=names.get(id(layer.weight), layer.name)) for layer in masked]


def groups(model: nn.Module) -> Groups:
    """The score parameters of an attached model, and all others that require a gradient."""
    scores = [layer.supermask.scores for layer in layers(model)]
    own = {id(s) for s in scores}
    return Groups(scores, [p for p in model.parameters() if p.requires_grad and id(p) not in own])


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict under the names from before `attach`: latent weights, without scores and masks."""
    return plain_names(unwrap(model).state_dict())


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict of an attached model under the plain model's names."""
    parts = {name: _PARAMETRISED.fullmatch(name) for name in state}
    masked = {part.group(1, 2) for part in parts.values() if part and part[3] == "0.scores"}
    plain = {}
    for name, part in parts.items():
        if part is None or part.group(1, 2) not in masked:
            plain[name] = state[name]
        elif part[3] == "original":
            plain[f"{part[1]}{part[2]}"] = state[name]
    return plain
