"""Which network, as configuration; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelSpec:
    """The network and where its first weights come from.

    Args:
        name: One of Tombola's networks (e.g. lenet-300-100, conv-4, resnet-20, wrn-28-10) or an import path
            such as mypackage.mymodule.MyNet.
        args: Arguments for the network, e.g. {width: 2}.
        init: Initialisation scheme; by default the one that the field uses for this network. For an import
            path the weights stay as built.
        checkpoint: A .safetensors, .pt or .pth file to start from instead of fresh weights.
    """

    name: str = "lenet-300-100"
    args: Mapping[str, Any] = field(default_factory=dict)
    init: str | None = None
    checkpoint: str | None = None
