"""Which network, as configuration; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tombola.errors import TombolaError

_TIMM = "timm.create_model"


def written_out(name: str, args: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The import path and arguments of a network of torchvision or timm by its short name; any other as it is.

    >>> written_out("torchvision/resnet18", {})
    ('torchvision.models.resnet18', {})
    >>> written_out("timm/resnet50.a1_in1k", {"drop_rate": 0.1})
    ('timm.create_model', {'model_name': 'resnet50.a1_in1k', 'drop_rate': 0.1})

    Raises:
        TombolaError: it is of another zoo, or has no name after the slash.
    """
    zoo, slash, short = name.partition("/") if isinstance(name, str) else (name, "", "")
    if not slash:
        return name, args
    if zoo not in ("torchvision", "timm") or not short:
        raise TombolaError(
            f"unknown model {name[:80]!r}; torchvision/NAME and timm/NAME are known, or an import path such as "
            "package.module.Net"
        )
    if zoo == "timm":
        return _TIMM, {"model_name": short, **args}
    return f"torchvision.models.{short.replace('/', '.')}", args


@dataclass(frozen=True)
class ModelSpec:
    """The network and where its first weights come from.

    Args:
        name: One of Tombola's networks (e.g. lenet-300-100, conv-4, resnet-20, wrn-28-10), torchvision/NAME, timm/NAME,
            or an import path such as mypackage.mymodule.MyNet.
        args: Arguments for the network, e.g. {width: 2}.
        init: Initialisation scheme; by default the one that the field uses for this network. For an import
            path the weights stay as built.
        checkpoint: A .safetensors, .pt, .pth, .bin or .ckpt file to start from instead of fresh weights, or the
            .index.json of several.
        checkpoint_without: Patterns of tensors that stay as initialised and are not read from the checkpoint, such as
            fc.* of a head of another size.
    """

    name: str = "lenet-300-100"
    args: Mapping[str, Any] = field(default_factory=dict)
    init: str | None = None
    checkpoint: str | None = None
    checkpoint_without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.checkpoint_without and self.checkpoint is None:
            raise TombolaError("checkpoint_without names tensors of a checkpoint, and none is given; give checkpoint")
        name, args = written_out(self.name, self.args)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "args", args)

    @property
    def label(self) -> str:
        """The name for people and folders."""
        return f"timm.{self.args['model_name']}" if self.name == _TIMM and "model_name" in self.args else self.name
