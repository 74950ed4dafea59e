"""What stays of the modules that compaction cuts: sizes they tell, parameters that stay frozen, biases they get."""

from __future__ import annotations

import torch
from torch import nn

from tombola.compact import compact


def small_of(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """The compacted network, which gives the same outputs."""
    expected = model.eval()(x).detach()
    found = compact(model, x)
    assert found.report.reason is None
    torch.testing.assert_close(found.module(x), expected, rtol=1e-4, atol=1e-5)
    return found.module


def network() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, groups=3),
        nn.ReLU(),
        nn.Conv2d(6, 5, 1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 7, bias=False),
        nn.ReLU(),
        nn.Linear(7, 3, bias=False),
    )
    with torch.no_grad():
        made[2].weight[:2] = 0  # the first group sends constants only
        made[2].bias[:2] = 0.5
        # reads that group alone, and so becomes a constant once they are folded
        made[4].weight[1] = torch.tensor([1.0, 1, 0, 0, 0, 0]).view(6, 1, 1)
        made[7].weight[2] = 0  # a unit of nothing
        made[9].weight[:, 4] = 0  # a unit that nobody reads
    return made


def test_modules_tell_the_sizes_that_their_weights_have() -> None:
    small = small_of(network(), torch.randn(4, 2, 6, 6))
    for module in small.modules():
        if isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == tuple(module.weight.shape)
        if isinstance(module, nn.Conv2d):
            assert module.out_channels == module.weight.shape[0]
            assert module.in_channels == module.weight.shape[1] * module.groups
    first, grouped, mixed, wide, last = (
        module for module in small.modules() if isinstance(module, nn.Linear | nn.Conv2d)
    )
    assert (first.out_channels, grouped.groups, grouped.in_channels, grouped.out_channels) == (4, 2, 4, 4)
    assert (mixed.in_channels, mixed.out_channels) == (4, 4)  # the constant channel has gone too
    assert (wide.in_features, wide.out_features, last.in_features) == (16, 5, 5)


def test_only_layers_that_take_up_constants_get_a_bias() -> None:
    small = small_of(network(), torch.randn(4, 2, 6, 6))
    biases = [module.bias is not None for module in small.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    assert biases == [True, True, True, True, False]


def test_frozen_parameters_stay_frozen() -> None:
    model = network()
    model[4].weight.requires_grad_(False)
    model[9].weight.requires_grad_(False)
    small = small_of(model, torch.randn(4, 2, 6, 6))
    layers = [module for module in small.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    assert [layer.weight.requires_grad for layer in layers] == [True, True, False, True, False]
    assert [layer.bias.requires_grad for layer in layers if layer.bias is not None] == [True, True, False, True]
