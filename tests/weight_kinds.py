"""Networks whose effective weights are no parameters of their own: computed, tied, shared, views, held, learned."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import tombola as tb

WIDTH = 6


class Chain(nn.Module):
    """Three layers; `called`: whether the last is called, or its weight only read."""

    def __init__(self, called: bool = True) -> None:
        super().__init__()
        self.called = called
        self.first, self.mid = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WIDTH, bias=False)
        self.unused = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.first(x).relu()).relu()
        return self.head(x) if self.called else F.linear(x, self.head.weight)


class Language(nn.Module):
    """As GPT-2: the head's weight is the table of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mid = nn.Embedding(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head, self.unused = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.head.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        words = (2 * x.abs()).long().clamp(0, WIDTH - 1)
        return self.head(self.mid(self.first(words).sum(1)).relu())


class Encoder(nn.Module):
    """A layer whose fast path calls none of its own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.0, batch_first=True)
        self.first, self.mid, self.head = self.layer.linear1, self.layer.linear2, self.layer.self_attn.out_proj
        self.unused = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x[:, None])[:, 0]
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.cell(x[:, None].expand(-1, 3, -1))[0][:, -1]
        return out


class Assigns(Chain):
    """Its head's weight is written in every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        del self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        self.head.weight = 0.5 * self.first.weight.t()  # type: ignore[assignment]
        return super().forward(x)


class Twice(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


Change = Callable[[nn.Module], object]


def tie(model: nn.Module) -> None:
    model.head.weight = model.first.weight


def tie_by_data(model: nn.Module) -> None:
    model.head.weight.data = model.first.weight.data


def tie_transposed(model: nn.Module) -> None:
    model.head.weight = nn.Parameter(model.first.weight.t())


def plain_view(model: nn.Module) -> None:
    weight = 1.5 * model.first.weight.t()
    del model.head.weight
    model.head.weight = weight


def own_hook(model: nn.Module) -> None:
    raw = model.head.weight
    del model.head.weight
    model.head.raw = raw
    model.head.register_forward_pre_hook(lambda module, _: setattr(module, "weight", 2 * module.raw))
    model.head.weight = 2 * raw


def root_hook(model: nn.Module) -> None:
    raw = model.head.weight
    del model.head.weight
    model.raw = raw
    model.register_forward_pre_hook(lambda module, _: setattr(module.head, "weight", 2 * module.raw))
    model.head.weight = 2 * raw


def shared_module(model: nn.Module) -> None:
    model.head = model.first


def shared_buffers(model: nn.Module) -> None:
    one, other = nn.BatchNorm1d(WIDTH), nn.BatchNorm1d(WIDTH)
    other.running_mean, other.weight = one.running_mean, one.weight
    one.running_mean.normal_()
    model.first, model.mid = nn.Sequential(model.first, one), nn.Sequential(model.mid, other)


def pruned(name: str, weight: str = "weight") -> Change:
    return lambda model: prune.random_unstructured(model.get_submodule(name), weight, 0.5)


def pruned_by_mask(model: nn.Module) -> None:
    prune.custom_from_mask(model.head, "weight", torch.rand(WIDTH, WIDTH) < 0.5)


def pruned_twice(model: nn.Module) -> None:
    prune.random_unstructured(model.head, "weight", 0.3)
    prune.ln_structured(model.head, "weight", 0.3, n=2, dim=0)
    prune.random_unstructured(model.mid, "bias", 0.3)


def pruned_globally(model: nn.Module) -> None:
    layers = [(model.mid, "weight"), (model.head, "weight"), (model.unused, "weight")]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=0.5)


def tie_what_is_pruned(model: nn.Module) -> None:
    model.head.weight_orig = model.first.weight


def tie_pruned_by_data(model: nn.Module) -> None:
    model.head.weight_orig.data = model.first.weight.data


def normed(how: Callable[..., object], name: str, weight: str = "weight") -> Change:
    def change(model: nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            how(model.get_submodule(name), weight)

    return change


def doubled(name: str) -> Change:
    return lambda model: parametrize.register_parametrization(model.get_submodule(name), "weight", Twice())


def tie_parametrised(model: nn.Module) -> None:
    doubled("first")(model)
    doubled("head")(model)
    model.head.parametrizations.weight.original = model.first.parametrizations.weight.original


def tie_parametrisations(model: nn.Module) -> None:
    doubled("first")(model)
    doubled("head")(model)
    model.head.parametrizations = model.first.parametrizations


def held(model: nn.Module) -> None:
    names = [name for name, weight in model.named_parameters() if weight.dim() == 2]
    tb.hold(model, tb.Mask({name: torch.rand_like(model.get_parameter(name)) < 0.5 for name in names}))


def held_computed(model: nn.Module) -> None:
    parametrizations.weight_norm(model.mid)
    tb.hold(model, tb.Mask({"mid.weight": torch.rand(WIDTH, WIDTH) < 0.5}))


OLD_NORM, OLD_SPECTRAL = nn.utils.weight_norm, nn.utils.spectral_norm
NEW_NORM, NEW_SPECTRAL = parametrizations.weight_norm, parametrizations.spectral_norm

CHANGES: Mapping[str, tuple[Callable[[], nn.Module], tuple[Change, ...]]] = {
    "tied": (Chain, (tie,)),
    "tied, head pruned": (Chain, (tie, pruned("head"))),
    "tied, first pruned": (Chain, (tie, pruned("first"))),
    "tied, both pruned": (Chain, (tie, pruned("first"), pruned("head"))),
    "pruned, then tied": (Chain, (pruned("head"), tie_what_is_pruned)),
    "pruned globally": (Chain, (pruned_globally,)),
    "tied, pruned globally": (Chain, (tie, pruned_globally)),
    "pruned by a mask": (Chain, (tie, pruned_by_mask)),
    "pruned twice": (Chain, (tie, pruned_twice)),
    "pruned, never called": (Chain, (pruned("unused"),)),
    "pruned, only read": (partial(Chain, False), (tie, pruned("head"))),
    "language model, pruned": (Language, (pruned("head"),)),
    "language model, table pruned": (Language, (pruned("first"),)),
    "language model, normed": (Language, (normed(OLD_NORM, "head"),)),
    "language model, held": (Language, (held,)),
    "encoder, pruned": (Encoder, (pruned("first"), pruned("mid"), pruned("head"))),
    "encoder, projection pruned": (Encoder, (pruned("layer.self_attn", "in_proj_weight"),)),
    "encoder, normed": (Encoder, (normed(OLD_NORM, "layer.linear1"),)),
    "recurrent, pruned": (Recurrent, (pruned("cell", "weight_hh_l0"),)),
    "recurrent, normed": (Recurrent, (normed(OLD_NORM, "cell", "weight_hh_l0"),)),
    "old weight norm": (Chain, (tie, normed(OLD_NORM, "head"), normed(OLD_NORM, "unused"))),
    "old spectral norm": (Chain, (tie, normed(OLD_SPECTRAL, "head"), normed(OLD_SPECTRAL, "unused"))),
    "old weight norm, only read": (partial(Chain, False), (normed(OLD_NORM, "head"),)),
    "weight norm": (Chain, (tie, normed(NEW_NORM, "head"), normed(NEW_NORM, "unused"))),
    "spectral norm": (Chain, (tie, normed(NEW_SPECTRAL, "first"))),
    "parametrised": (Chain, (tie, doubled("head"))),
    "parametrised, only read": (partial(Chain, False), (tie, doubled("head"))),
    "tied originals": (Chain, (tie_parametrised,)),
    "tied parametrisations": (Chain, (tie_parametrisations,)),
    "shared module": (Chain, (shared_module, pruned("first"))),
    "shared module, parametrised": (Chain, (shared_module, doubled("head"))),
    "shared buffers": (Chain, (shared_buffers,)),
    "tied by data": (Chain, (tie_by_data,)),
    "tied by data, pruned": (Chain, (tie_by_data, pruned("head"))),
    "pruned, tied by data": (Chain, (pruned("head"), tie_pruned_by_data)),
    "transposed": (Chain, (tie_transposed,)),
    "transposed, first pruned": (Chain, (tie_transposed, pruned("first"))),
    "plain attribute": (Chain, (plain_view,)),
    "hook of one's own": (Chain, (own_hook,)),
    "hook on the whole": (Chain, (root_hook,)),
    "assigned": (Assigns, ()),
    "held": (Chain, (held,)),
    "tied, held": (Chain, (tie, held)),
    "tied, held, pruned": (Chain, (tie, held, pruned("head"))),
    "held, computed": (Chain, (held_computed,)),
    "learned": (Chain, (tb.attach,)),
    "tied, learned": (Chain, (tie, tb.attach)),
}  # fmt: skip


def build(kind: str) -> nn.Module:
    """The network of that kind, in train mode, with zeros in its plain weights."""
    torch.manual_seed(0)
    make, changes = CHANGES[kind]
    model = make()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(torch.rand_like(weight) < 0.7)
    for change in changes:
        change(model)
    return model
