"""What the methods with binary weights share: the network's form, and the rewrites of a network made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from tombola.models.spec import ModelSpec

ACTIVATIONS = ("float", "binary")
NORMS = ("fixed", "trained", "tuned")


def binary_form(spec: ModelSpec, activations: str, affine: bool) -> ModelSpec:
    """One of Tombola's own networks in the block order and with the norms that are asked for.

    What the user has set in the network's arguments stays; networks made elsewhere are rewritten instead.
    """
    from tombola.models.registry import has_norms

    binary = activations == "binary"
    wanted: dict[str, Any] = {"activation": "binary"} if binary else {}
    if binary or has_norms(spec.name):
        wanted["affine"] = affine
    return replace(spec, args={**wanted, **spec.args})


def binary_rewrites(
    network: nn.Module, activations: str, include: Sequence[str], exclude: Sequence[str]
) -> tuple[Mapping[str, Any], ...]:
    """What a network is rewritten with: binary layers for all that is masked; binary activations where they are
    asked for and the network does not have them."""
    from tombola.mask import prunable
    from tombola.nn.binary import BinaryActivation
    from tombola.nn.flow import RELU_LIKE

    rewrites: list[Mapping[str, Any]] = [{"kind": "binary-layers", "names": list(prunable(network, include, exclude))}]
    binary, float_ = (any(isinstance(m, kind) for m in network.modules()) for kind in (BinaryActivation, RELU_LIKE))
    if activations == "binary" and (float_ or not binary):
        rewrites.insert(0, {"kind": "binary-activations"})
    return tuple(rewrites)
