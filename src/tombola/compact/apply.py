"""A traced network's tensors put back into the user's own module, whose forward then computes the smaller network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from tombola.graph.ops import Norm
from tombola.parameters import holders


def put_into(model: nn.Module, network: fx.GraphModule, folded: Mapping[str, Norm]) -> None:
    """Give a model the tensors of a network that was traced from it and cut; sizes of its layers follow.

    Args:
        folded: norms that became part of a layer: torch's own are nn.Identity from now on, others change nothing.
    """
    for norm in folded.values():
        _take_out(model, norm)
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    tied = holders(model)
    for name, value in tensors.items():
        for owner, local in tied.get(name, [_owner(model, name)]):
            if getattr(owner, local, None) is not value:
                _put(owner, local, value)
    for module in model.modules():
        _resize(module)


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, local = name.rpartition(".")
    return model.get_submodule(path), local


def _put(owner: nn.Module, local: str, value: Tensor) -> None:
    if local in owner._buffers:
        owner._buffers[local] = value
    elif isinstance(value, nn.Parameter):
        setattr(owner, local, value)


def _take_out(model: nn.Module, norm: Norm) -> None:
    if norm.module:
        path, _, local = norm.name.rpartition(".")
        model.get_submodule(path)._modules[local] = nn.Identity()
        return
    neutral = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0 - norm.eps}
    for kind, name in norm.tensors.items():
        owner, local = _owner(model, name)
        _put(owner, local, _like(norm.values[kind], neutral[kind]))


def _like(tensor: Tensor, number: float) -> Tensor:
    value = torch.full_like(tensor, number, requires_grad=False)
    return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


def _resize(module: Any) -> None:
    """Let a layer or norm of torch's say the sizes of its tensors, if it holds them itself."""
    if isinstance(module, nn.Linear | _ConvNd) and "weight" not in module._parameters:
        return
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _ConvNd) and not module.transposed:
        outputs = module.weight.shape[0]
        if module.groups > 1:
            module.groups = module.groups * outputs // module.out_channels
        module.out_channels, module.in_channels = outputs, module.weight.shape[1] * module.groups
    elif isinstance(module, _BatchNorm):
        of = next((x for x in (module.weight, module.running_mean) if x is not None), None)
        module.num_features = module.num_features if of is None else len(of)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and module.weight is not None and module.weight.dim() == 1:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm) and module.affine:
        module.num_groups = module.num_groups * len(module.weight) // module.num_channels
        module.num_channels = len(module.weight)
