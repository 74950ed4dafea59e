"""How much of a network a mask runs over, and what it leaves out: the denominator of every density."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from tombola.formats import density
from tombola.parameters import holders, parameters_by_name, prunable

__all__ = [
    "Coverage",
    "LeftOut",
    "LeftOutWarning",
    "coverage",
    "denominator_in_words",
    "density_in_words",
    "warn_of_left_out",
]

NOTABLE = 0.05  # of all parameters: below that share there is no warning
_LISTED = 4  # patterns in one line
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


class LeftOutWarning(UserWarning):
    """A notable share of the network's parameters is not prunable by default."""


class LeftOut(NamedTuple):
    """A parameter of two or more dimensions that no mask runs over, and why; `pattern` would include it (or None)."""

    name: str
    shape: tuple[int, ...]
    size: int
    why: str
    pattern: str | None


@dataclass(frozen=True)
class Coverage:
    """Parameters of a network (those shared by several layers count once): all, and the prunable ones among them."""

    total: int
    prunable: int
    left_out: tuple[LeftOut, ...]

    @property
    def left_out_share(self) -> float:
        """Fraction of all parameters that `left_out` holds, 0..1."""
        return sum(part.size for part in self.left_out) / max(self.total, 1)

    def __str__(self) -> str:
        """One line: what is prunable, what is not, and how to include it."""
        text = f"{self.prunable:,} of {self.total:,} parameters are prunable ({_share(self.prunable, self.total)})"
        if not self.left_out:
            return text
        together: dict[str, list[LeftOut]] = {}  # what one pattern includes is named once, largest first
        for part in self.left_out:
            together.setdefault(part.pattern or part.name, []).append(part)
        sizes = {name: sum(part.size for part in parts) for name, parts in together.items()}
        names = sorted(sizes, key=lambda name: -sizes[name])
        named = [f"{name} ({together[name][0].why}, {sizes[name]:,})" for name in names]
        text += f"; left out are {_few(named)}: {_share(sum(sizes.values()), self.total)} of all"
        if patterns := [repr(name) for name in names if together[name][0].pattern is not None]:
            text += f"; to prune them too, add them to include: {_few(patterns)}"
        return text


def coverage(model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Coverage:
    """What `prunable(model, include, exclude)` covers, and which parameters of two or more dimensions it leaves out.

    What `exclude` takes out on purpose is not listed. Raises TombolaError as `prunable` does.
    """
    chosen = prunable(model, include, exclude)
    held = holders(model)
    on_purpose = (exclude,) if isinstance(exclude, str) else exclude
    rest = {
        name: parameter
        for name, parameter in parameters_by_name(model).items()
        if name not in chosen and parameter.dim() >= 2 and not any(fnmatchcase(name, each) for each in on_purpose)
    }
    return Coverage(
        total=sum(parameter.numel() for parameter in parameters_by_name(model).values()),
        prunable=sum(parameter.numel() for parameter in chosen.values()),
        left_out=tuple(
            LeftOut(name, tuple(parameter.shape), parameter.numel(), *_why(name, held[name]))
            for name, parameter in rest.items()
        ),
    )


def warn_of_left_out(left_out: Coverage) -> None:
    """A `LeftOutWarning` with its line where the left-out share is notable (5 % of all parameters)."""
    if left_out.prunable and left_out.left_out_share >= NOTABLE:  # with nothing prunable there is an error instead
        warnings.warn(str(left_out), LeftOutWarning, stacklevel=3)


def _why(name: str, owners: Sequence[tuple[nn.Module, str]]) -> tuple[str, str | None]:
    """Why a parameter is no prunable weight, and the pattern that would include it."""
    modules = [module for module, _ in owners]
    embedding = any(isinstance(module, _EMBEDDINGS) for module in modules)
    if embedding and len(modules) > 1:
        return "embedding shared with another layer", name
    if embedding:
        return "embedding", name
    if any(isinstance(module, _RECURRENT) for module in modules):
        stem = name.rpartition(".")[0]
        return "recurrent", f"{stem}.weight_*" if stem else "weight_*"
    if any(isinstance(module, nn.Bilinear) for module in modules):
        return "bilinear", name
    if "parametrizations." in name or any(_is_part(module, local) for module, local in owners):
        return "part of a parametrised weight; remove the parametrisation to prune it", None
    return f"parameter of {type(modules[0]).__name__}", name


def _is_part(module: nn.Module, local: str) -> bool:
    """Whether the weight is computed from this parameter and others (parametrisations, weight and spectral norm)."""
    stem, _, end = local.rpartition("_")
    old = {"g": f"{stem}_v" in module._parameters, "v": f"{stem}_g" in module._parameters}
    spectral = end == "orig" and f"{stem}_u" in module._buffers
    return isinstance(module, ParametrizationList) or old.get(end, False) or spectral


def _share(part: int, whole: int) -> str:
    return density(part / whole if whole else 0.0)


def _few(words: Sequence[str]) -> str:
    rest = len(words) - _LISTED
    return ", ".join(words[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


# ---- in words ----------------------------------------------------------------------------------------------


def density_in_words(kept: int, total: int, parameters: int | None) -> str:
    """A density with its denominator: "20.30 % of the 51 prunable weights, which are 0.70 % of all 7,266 parameters".

    `total`: weights under the mask; `parameters`: of the whole network, None where unknown, which leaves that out.
    """
    return f"{_share(kept, total)} of {denominator_in_words(total, parameters)}"


def denominator_in_words(total: int, parameters: int | None) -> str:
    """What densities are a fraction of: "the 51 prunable weights, which are 0.70 % of all 7,266 parameters"."""
    text = f"the {total:,} prunable weights"
    if parameters is None:
        return text
    if total == parameters:
        return f"{text}, which are all of the parameters"
    return f"{text}, which are {_share(total, parameters)} of all {parameters:,} parameters"
