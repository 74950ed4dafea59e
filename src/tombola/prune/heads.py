"""Attention heads as units: rows of query, key and value and columns of the output projection, dropped as one.

With its columns of the output projection gone, a head adds nothing, whatever its biases are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.prune.layers import Layer
from tombola.select.select import selection

_QUERY = ("q_proj", "query", "q_lin", "q", "to_q", "wq")
_KEY = ("k_proj", "key", "k_lin", "k", "to_k", "wk")
_VALUE = ("v_proj", "value", "v_lin", "v", "to_v", "wv")
_PACKED = ("qkv", "c_attn", "in_proj", "Wqkv", "to_qkv", "qkv_proj")
_OUTPUT = ("out_proj", "o_proj", "out_lin", "o", "proj", "c_proj", "to_out", "wo", "out", "dense")
_COUNTS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "num_head", "heads")
_SHARED = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")


@dataclass(frozen=True)
class Heads:
    """The pattern whose unit is a head."""

    def __str__(self) -> str:
        return "head"


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention layer.

    `path`: of its module. `heads`: units; query heads that share a key and value are one. `rows`, `columns`: weight
    name -> the unit of every output row or input column of the weight as a matrix, int64.
    """

    path: str
    heads: int
    rows: Mapping[str, Tensor]
    columns: Mapping[str, Tensor]

    def unit_of(self, layer: Layer) -> Tensor:
        """The unit of every weight, in the weight's shape."""
        shape = layer.rows(layer.weight.detach()).shape
        if layer.name in self.columns:
            return layer.weight_of(self.columns[layer.name].view(1, 1, -1).expand(shape))
        return layer.weight_of(self.rows[layer.name].view(shape[0], -1, 1).expand(shape))


def attentions(model: nn.Module, layers: Mapping[str, Layer]) -> list[Attention]:
    """The attention layers of a model whose projections are all among `layers`.

    nn.MultiheadAttention, and modules with the number of heads in an attribute of their own or their configuration
    (num_heads, num_attention_heads, ...) and linear layers under the usual names: query, key and value apart or packed
    in this order, and an output projection in it or, alone, beside it.
    """
    named = {layer.calls[0]: name for name, layer in layers.items() if layer.calls}
    modules = dict(model.named_modules())
    found = []
    for path, module in modules.items():
        if isinstance(module, nn.MultiheadAttention):
            one = _of_torch(path, module, layers)
        else:
            one = _by_names(path, module, modules, named, layers)
        found += [] if one is None else [one]
    return found


def choose_heads(
    scores: Mapping[str, Tensor], model: nn.Module, layers: Mapping[str, Layer], density: float, scope: str
) -> Mask:
    """The mask of all attention layers: round(density * heads) heads each, or of all together (scope global).

    A head's score is the mean of its weights' |scores|; in ties the first heads are kept.

    Raises:
        TombolaError: no attention layer is found.
    """
    found = attentions(model, layers)
    if not found:
        raise TombolaError(
            "pattern head finds no attention layer: nn.MultiheadAttention, or a module with its number of heads in an "
            f"attribute ({', '.join(_COUNTS[:2])}, ...) and linear layers such as query, key, value and dense; choose "
            "another pattern"
        )
    totals = {one.path: _mean_by_unit(one, scores, layers) for one in found}
    kept = selection(totals, density=density, scope=scope, ties=False).mask
    return Mask(
        {name: kept[one.path][one.unit_of(layers[name])] for one in found for name in (*one.rows, *one.columns)}
    )


def _mean_by_unit(attention: Attention, scores: Mapping[str, Tensor], layers: Mapping[str, Layer]) -> Tensor:
    sums = torch.zeros(attention.heads, dtype=torch.float64, device="cpu")
    counts = torch.zeros_like(sums)
    for name in (*attention.rows, *attention.columns):
        unit = attention.unit_of(layers[name]).flatten().cpu()
        sums.index_add_(0, unit, scores[name].detach().double().abs().flatten().cpu())
        counts += torch.bincount(unit, minlength=attention.heads)
    return sums / counts


def _of_torch(path: str, module: nn.MultiheadAttention, layers: Mapping[str, Layer]) -> Attention | None:
    stem = f"{path}." if path else ""
    width, last = module.head_dim * module.num_heads, f"{stem}out_proj.weight"
    each = _units(module.num_heads, width)
    if f"{stem}in_proj_weight" in layers:
        rows = {f"{stem}in_proj_weight": each.repeat(3)}
    else:
        rows = {f"{stem}{part}_proj_weight": each for part in "qkv"}
    whole = last in layers and all(name in layers for name in rows)
    return Attention(path, module.num_heads, rows, {last: each}) if whole else None


def _by_names(
    path: str,
    module: nn.Module,
    modules: Mapping[str, nn.Module],
    named: Mapping[nn.Module, str],
    layers: Mapping[str, Layer],
) -> Attention | None:
    heads = _number(module, _COUNTS)
    shared = _number(module, _SHARED) or heads
    if heads is None or shared is None or heads % shared:
        return None
    apart = [_child(module, names, named) for names in (_QUERY, _KEY, _VALUE)]
    packed = _child(module, _PACKED, named)
    last = _child(module, _OUTPUT, named) or _beside(path, module, modules, named)
    if last is None or not (all(apart) or packed):
        return None
    inputs = _size(layers[last])[1]
    if packed:
        outputs = _size(layers[packed])[0]
        if shared != heads or outputs != 3 * inputs or inputs % heads:
            return None
        return Attention(path, heads, {packed: _units(heads, inputs).repeat(3)}, {last: _units(heads, inputs)})
    query, key, value = (str(name) for name in apart)
    sizes = {name: _size(layers[name])[0] for name in (query, key, value)}
    if sizes[query] % heads or sizes[key] % shared or inputs % heads or sizes[value] * heads != inputs * shared:
        return None
    rows = {name: _units(shared, size) for name, size in sizes.items()}
    return Attention(path, shared, rows, {last: _units(shared, inputs)})


def _units(heads: int, size: int) -> Tensor:
    """0 0 0 1 1 1 ...: the head of each of `size` features."""
    return torch.arange(heads, device="cpu").repeat_interleave(size // heads)


def _number(module: nn.Module, names: tuple[str, ...]) -> int | None:
    """A count in an attribute of the module or of its configuration."""
    for owner in (module, getattr(module, "config", None)):
        for name in names:
            value = getattr(owner, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _child(module: nn.Module, names: tuple[str, ...], named: Mapping[nn.Module, str]) -> str | None:
    """The weight of a child by one of these names; of a child that holds a single layer, as to_out[0], that one's."""
    for name in names:
        child = module._modules.get(name)
        inside = [] if child is None else [named[part] for part in child.modules() if part in named]
        if len(inside) == 1:
            return inside[0]
    return None


def _beside(
    path: str, module: nn.Module, modules: Mapping[str, nn.Module], named: Mapping[nn.Module, str]
) -> str | None:
    """The one weight beside the module, under its parent, as BERT's output.dense."""
    parent = modules.get(path.rpartition(".")[0]) if path else None
    if parent is None:
        return None
    own = set(module.modules())
    beside = [named[part] for part in parent.modules() if part in named and part not in own]
    return beside[0] if len(beside) == 1 else None


def _size(layer: Layer) -> tuple[int, int]:
    """Outputs and inputs of a linear layer."""
    _, outputs, inputs = layer.rows(layer.weight.detach()).shape
    return outputs, inputs
