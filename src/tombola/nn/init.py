"""Seeded initialisation: every value depends on the seed and on the parameter's own name, on nothing else.

So the order of the modules, other parameters, the device and torch's own generators do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from tombola.errors import TombolaError
from tombola.names import unknown
from tombola.parameters import is_conv1d
from tombola.rng import philox
from tombola.rng.seeds import derive

Kind: TypeAlias = Literal["normal", "uniform", "signed", "positive"]
NormScale: TypeAlias = Literal["one", "uniform"]
Draw: TypeAlias = Callable[[int, int], philox.Floats]
"""(key, count) -> float32 of shape (count,)."""


@dataclass(frozen=True)
class Scheme:
    """A distribution of weights with mean 0 (`positive` aside) and a size set by the fans.

    Args:
        kind: normal; uniform over [-sqrt(3)*std, sqrt(3)*std); signed: -std or +std; positive: +std always.
        variance: (fan_in, fan_out) -> std**2. The fans are those of torch: shape[1] and shape[0], each times
            the size of the kernel.
        uniform_bias: biases uniform over +-1/sqrt(fan_in) instead of 0.
        source: where the formula is from.
    """

    kind: Kind
    variance: Callable[[float, float], float]
    uniform_bias: bool = False
    source: str = ""

    def draw(self, key: int, count: int, fan_in: float, fan_out: float) -> philox.Floats:
        """float32 of shape (count,)."""
        return _DRAWS[self.kind](math.sqrt(self.variance(fan_in, fan_out)))(key, count)


def _normal(std: float) -> Draw:
    return lambda key, n: philox.normal(key, n) * np.float32(std)


def _uniform(std: float) -> Draw:
    bound = np.float32(math.sqrt(3.0) * std)
    return lambda key, n: (philox.uniform(key, n) * np.float32(2) - np.float32(1)) * bound


def _signed(std: float) -> Draw:
    value = np.float32(std)
    return lambda key, n: np.where(philox.uniform(key, n) < 0.5, -value, value)


def _constant(value: float) -> Draw:
    return lambda key, n: np.full(n, value, dtype=np.float32)


_DRAWS: Mapping[Kind, Callable[[float], Draw]] = MappingProxyType(
    {"normal": _normal, "uniform": _uniform, "signed": _signed, "positive": _constant}
)


def _he(fan_in: float, fan_out: float) -> float:
    return 2.0 / fan_in


def _glorot(fan_in: float, fan_out: float) -> float:
    return 2.0 / (fan_in + fan_out)


def _lecun(fan_in: float, fan_out: float) -> float:
    return 1.0 / fan_in


_HE = "He et al. 2015, fan-in, gain sqrt(2)"
_GLOROT = "Glorot & Bengio 2010; the normal one is a plain, not a truncated, N(0, 2/(fan_in + fan_out))"
_RAMANUJAN = "Ramanujan et al. 2020"

SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        "kaiming_normal": Scheme("normal", _he, source=_HE),
        "kaiming_uniform": Scheme("uniform", _he, source=_HE),
        "xavier_normal": Scheme("normal", _glorot, source=_GLOROT),
        "xavier_uniform": Scheme("uniform", _glorot, source=_GLOROT),
        "signed_constant": Scheme("signed", _he, source=f"{_RAMANUJAN}: +-sqrt(2/fan_in)"),
        "unsigned_constant": Scheme("positive", _he, source=f"{_RAMANUJAN}: +sqrt(2/fan_in)"),
        "xavier_constant": Scheme("signed", _glorot, source=f"{_RAMANUJAN}: +-sqrt(2/(fan_in + fan_out))"),
        "lecun_normal": Scheme("normal", _lecun, source="LeCun et al. 1998: N(0, 1/fan_in)"),
        "torch_default": Scheme(
            "uniform",
            lambda fan_in, fan_out: 1.0 / (3.0 * fan_in),
            uniform_bias=True,
            source="torch: kaiming_uniform with a = sqrt(5), that is U(+-1/sqrt(fan_in)), biases too",
        ),
    }
)

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def scheme_named(name: str) -> Scheme:
    """The scheme of that name.

    Raises:
        TombolaError: if there is none.
    """
    if name not in SCHEMES:
        raise TombolaError(unknown("initialisation", name, SCHEMES))
    return SCHEMES[name]


@torch.no_grad()
def initialise_(
    model: nn.Module,
    scheme: str,
    seed: int,
    *,
    norm_scale: NormScale = "one",
    scale_fan: float | Mapping[str, float] = 1.0,
) -> tuple[str, ...]:
    """Write, in place, every parameter and statistic whose meaning is known.

    Weights of linear and convolution layers (transformers' Conv1D too) follow the scheme and their biases are 0 (or the
    scheme's);
    norm layers get scale 1, bias 0 and fresh statistics; embeddings N(0, 1); packed attention projections
    Glorot uniform; recurrent layers U(+-1/sqrt(hidden size)); PReLU 0.25. Values are drawn on the CPU in
    float32 with the key `derive(seed, "init", name)` and then copied to the parameter's device and dtype.
    A tied parameter is written once, under its first name.

    Args:
        model: any module; its parameters must exist (not lazy, not on the meta device) to be written.
        scheme: a name in SCHEMES.
        seed: the run's seed.
        norm_scale: scale of norm layers: 1, or drawn from [0, 1) as in early work on tickets.
        scale_fan: factor of both fans of a weight, meant to be the density of the mask to come, so that a
            sparse layer keeps its output variance (Ramanujan et al. 2020, with the factor that they
            intended); one number, or one per parameter name (1 where a name is missing).

    Returns:
        State-dict names of the parameters and buffers that were NOT written. Empty: (scheme, seed) describes
        the whole model.

    Raises:
        TombolaError: for an unknown scheme or a scale that is not in (0, 1].
    """
    rule = scheme_named(scheme)
    if norm_scale not in ("one", "uniform"):
        raise TombolaError(unknown("norm scale", norm_scale, ("one", "uniform")))
    unwritten: list[str] = []
    seen: set[int] = set()
    for name, module, leaf, tensor in _entries(model):
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if not _writable(tensor):
            unwritten.append(name)
            continue
        scale = scale_fan if isinstance(scale_fan, (int, float)) else scale_fan.get(name, 1.0)
        if not 0.0 < scale <= 1.0:
            raise TombolaError(f"scale_fan {scale} for {name!r}; a density in (0, 1] is needed")
        draw = _draw_for(module, leaf, rule, norm_scale, scale)
        if draw is None:
            unwritten.append(name)
            continue
        values = draw(derive(seed, "init", name), tensor.numel())
        tensor.copy_(torch.from_numpy(values).reshape(tensor.shape))
        padding = getattr(module, "padding_idx", None)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and padding is not None:
            tensor[padding] = 0
    return tuple(unwritten)


def _entries(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, torch.Tensor]]:
    """(state-dict name, module, own name within the module, tensor) of each parameter and saved buffer."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        own: dict[str, Any] = {**module._parameters, **module._buffers}
        for leaf, tensor in own.items():
            if tensor is not None and leaf not in module._non_persistent_buffers_set:
                yield prefix + leaf, module, leaf, tensor


def _writable(tensor: torch.Tensor) -> bool:
    return not (tensor.is_meta or nn.parameter.is_lazy(tensor) or tensor.is_complex())


def _draw_for(module: nn.Module, leaf: str, rule: Scheme, norm_scale: NormScale, scale: float) -> Draw | None:
    """How the entry `leaf` of this module is drawn, or None if its meaning is not known."""
    turned = is_conv1d(module)
    if turned or isinstance(module, (nn.Linear, _ConvNd)):
        fan_in, fan_out = fans(getattr(module, "weight"), turned)  # noqa: B009
        if leaf == "weight":
            return lambda key, n: rule.draw(key, n, fan_in * scale, fan_out * scale)
        if leaf == "bias":
            return _uniform(1.0 / math.sqrt(3.0 * fan_in)) if rule.uniform_bias else _constant(0.0)
    elif isinstance(module, NORMS):
        if leaf == "weight" and norm_scale == "uniform":
            return philox.uniform
        known = {
            "weight": 1.0,
            "bias": 0.0,
            "running_mean": 0.0,
            "running_var": 1.0,
            "num_batches_tracked": 0.0,
        }
        return _constant(known[leaf]) if leaf in known else None
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and leaf == "weight":
        return _normal(1.0)
    elif isinstance(module, nn.MultiheadAttention):
        if leaf.endswith("_proj_weight"):
            return _uniform(math.sqrt(_glorot(*fans(getattr(module, leaf)))))
        if leaf == "in_proj_bias":
            return _constant(0.0)
        if leaf in ("bias_k", "bias_v"):
            return _normal(math.sqrt(_glorot(*fans(getattr(module, leaf)))))
    elif isinstance(module, nn.RNNBase) and leaf.startswith(("weight_", "bias_")):
        return _uniform(1.0 / math.sqrt(3.0 * module.hidden_size))
    elif isinstance(module, nn.PReLU) and leaf == "weight":
        return _constant(0.25)
    return None


def fans(weight: torch.Tensor, transposed: bool = False) -> tuple[float, float]:
    """(fan_in, fan_out) of a weight of two dimensions or more, as torch counts them; at least 1.

    `transposed`: of a matrix that is stored as (inputs, outputs); see `tombola.parameters.transposed`.
    """
    kernel = math.prod(weight.shape[2:])
    outputs, inputs = (max(1.0, size * kernel) for size in weight.shape[:2])
    return (outputs, inputs) if transposed else (inputs, outputs)
