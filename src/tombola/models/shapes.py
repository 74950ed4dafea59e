"""Helpers of the networks: checks of their arguments, scaled widths, pooling that stops at 1x1."""

from __future__ import annotations

from typing import TypeAlias

from torch import nn

from tombola.errors import TombolaError

Shape: TypeAlias = tuple[int, ...]


def image(network: str, input_shape: Shape) -> tuple[int, int, int]:
    """(channels, height, width) of the input.

    Raises:
        TombolaError: if the shape has not three positive numbers.
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise TombolaError(
            f"{network} needs images of shape (channels, height, width); the data's shape is "
            f"{tuple(input_shape)}; for flat data use mlp or lenet-300-100"
        )
    channels, height, width = input_shape
    return channels, height, width


def scaled(network: str, base: int, width: float) -> int:
    """`base` channels times `width`, rounded, at least 1.

    Raises:
        TombolaError: if the width is not a positive finite number.
    """
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width < float("inf"):
        raise TombolaError(f"{network}: width is {width!r}; a number above 0 is needed, e.g. 0.5 or 2")
    return max(1, round(base * width))


def flag(network: str, name: str, value: bool) -> bool:
    """`value`, if it is a bool.

    Raises:
        TombolaError: if not.
    """
    if not isinstance(value, bool):
        raise TombolaError(f"{network}: {name} is {value!r}; allowed: true, false")
    return value


class Pooling:
    """Max pools of 2x2, stride 2, made one after the other; a side of length 1 stays 1.

    Args:
        height: rows of the map, in pixels.
        width: columns of the map, in pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width, self.made = height, width, 0

    def next(self) -> dict[str, nn.Module]:
        """The next pool under its name, pool1, pool2, ...; nothing if the map is 1x1 already."""
        size = (min(2, self.height), min(2, self.width))
        if size == (1, 1):
            return {}
        self.height, self.width = self.height // size[0], self.width // size[1]
        self.made += 1
        return {f"pool{self.made}": nn.MaxPool2d(size)}
