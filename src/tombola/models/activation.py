"""Which activation a network has, and in which order it, the norm and the pool follow a layer.

The binary form is the published one of networks with binary activations (Rastegari et al. 2016; Diffenderfer
& Kailkhura 2021): layer, max pool, norm, binary activation. There the pool sees numbers of many sizes, not
only -1 and +1 of which nearly every window holds a +1, and a layer's inputs are exactly -1 or +1: all but the
image, the zeros of padding, and the means that a global average hands to the last layer. A norm follows each
layer but the last, so those layers have no bias: the norm would take it away.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

from torch import nn

from tombola.errors import TombolaError
from tombola.names import unknown

Activation: TypeAlias = Literal["relu", "binary"]


def binary_form(network: str, activation: Activation) -> bool:
    """Whether the network takes the binary form.

    Raises:
        TombolaError: for a name that is neither relu nor binary.
    """
    if activation not in ("relu", "binary"):
        raise TombolaError(f"{network}: {unknown('activation', activation, ('relu', 'binary'))}")
    return activation == "binary"


def check_has_norms(network: str, normed: bool, affine: bool) -> None:
    """TombolaError if norms are to be affine in a network that has none."""
    if affine and not normed:
        raise TombolaError(
            f"{network}: affine is true, but with activation relu it has no norms; allowed: binary, or norms true"
        )


def dropout_layer(network: str, number: int, dropout: float, binary: bool) -> dict[str, nn.Module]:
    """The dropout after the activation of hidden linear layer `number`, by name; nothing where it is 0.

    Raises:
        TombolaError: it is no number in [0, 1), or activations are binary.
    """
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise TombolaError(f"{network}: dropout is {dropout!r}; a number in [0, 1) is needed")
    if binary and dropout:
        raise TombolaError(f"{network}: dropout is {dropout}, which adds zeros to -1 and +1; activation binary needs 0")
    return {f"dropout{number}": nn.Dropout(float(dropout))} if dropout else {}


def activation_layer(binary: bool) -> nn.Module:
    """A ReLU, or the activation with outputs -1 and +1."""
    if not binary:
        return nn.ReLU()
    from tombola.nn.binary import BinaryActivation  # late: a floor above this one

    return BinaryActivation()


def following(
    number: int,
    binary: bool,
    *,
    norm: nn.Module | None = None,
    pool: Mapping[str, nn.Module] = MappingProxyType({}),
) -> dict[str, nn.Module]:
    """The modules after layer `number`, by name: norm, ReLU, pool, or in the binary form pool, norm, activation.

    An activation is named by its number, relu1, relu2, ..., in either form, as in a network whose ReLUs are
    replaced.

    Args:
        number: the layer's number in the network, from 1.
        binary: whether the activation is the binary one.
        norm: the norm, if there is one.
        pool: the pool and its name, or nothing.
    """
    norms = {} if norm is None else {f"bn{number}": norm}
    activation = {f"relu{number}": activation_layer(binary)}
    return {**pool, **norms, **activation} if binary else {**norms, **activation, **pool}
