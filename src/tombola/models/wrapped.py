"""What programs put around a state dict: dictionaries with epoch and optimiser, and prefixes of all names.

This module itself imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tombola.errors import TombolaError

if TYPE_CHECKING:
    from torch import Tensor

WRAPPERS = (
    "state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module",
    "model_ema", "ema_state_dict", "state_dict_ema", "params_ema", "ema",
)  # fmt: skip
"""Entries that hold a state dict, the first that is there counts: trained weights before their moving averages."""
_WORDS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile and torch's other wrappers put into names, wherever the wrapped module stands."""
_PARALLEL, _LIGHTNING = "module.", "model."
_DEPTH = 4  # of dictionaries within each other, and of prefixes


class Found(NamedTuple):
    """Tensors by name, and what was done to find them, in words."""

    state: dict[str, Tensor]
    said: tuple[str, ...] = ()


def unwrapped(content: Any, where: str) -> Found:
    """The state dict in what a checkpoint file held, its names without what wrappers put before all of them.

    Args:
        content: as unpickled with weights_only.
        where: the file, for errors.

    Raises:
        TombolaError: there is none, or several under names that say nothing.
    """
    keys: list[str] = []
    beside: list[str] = []
    lightning = False
    while len(keys) < _DEPTH and (key := _holder(content, where)) is not None:
        lightning |= "pytorch-lightning_version" in content
        keys.append(key)
        beside += [other for other in _state_dicts(content) if other != key]
        content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise TombolaError(f"checkpoint {where} holds {_described(content)}; a state dict is needed")
    state = {str(name): value.detach() for name, value in content.items() if _is_tensor(value)}
    others = [str(name) for name in content if str(name) not in state]
    if not state:
        raise TombolaError(
            f"checkpoint {where} holds no tensors by name but {some(others)}; they are looked for at the top and under "
            f"{', '.join(WRAPPERS)}"
        )
    said = [f"taken from {' in '.join(map(repr, reversed(keys)))}"] if keys else []
    said += [f"not from {some(list(map(repr, beside)))} beside it; to take that, save it by itself"] if beside else []
    said += [f"left out what is no tensor: {some(others)}"] if others else []
    plain, words = plain_names(state, where, lightning=lightning)
    return Found({name: state[held] for name, held in plain.items()}, (*said, *words))


def plain_names(names: Iterable[str], where: str, *, lightning: bool = False) -> tuple[dict[str, str], tuple[str, ...]]:
    """Names without what wrappers put before all of them -> the names as they are held; and what was done, in words.

    Raises:
        TombolaError: two names become one.
    """
    held = {name: name for name in names}
    words = sorted({word for name in held for word in _WORDS.findall(name)})
    plain = {_WORDS.sub("", name): name for name in held}
    if len(plain) < len(held):
        raise TombolaError(f"checkpoint {where} holds tensors with and without {some(words)} in their names")
    while (prefix := _prefix_of_all(plain, lightning)) is not None:
        plain = {name[len(prefix) :]: name_held for name, name_held in plain.items()}
        words.append(prefix)
    return plain, (f"without {', '.join(map(repr, words))} in all names",) if words else ()


def fitted(found: Found, wanted: Collection[str]) -> Found:
    """The tensors under a network's names: without the prefix that lets most of them fit, if any does.

    Tensors that do not carry that prefix, such as those of a loss beside the network, are left out.
    """
    heads = {"": 0}
    for name in found.state:
        for head in _heads(name):
            heads[head] = heads.get(head, 0) + (name[len(head) :] in wanted)
    best = max(heads, key=lambda head: (heads[head], -len(head)))
    if not best or not heads[best]:
        return found
    state = {name[len(best) :]: tensor for name, tensor in found.state.items() if name.startswith(best)}
    others = [name for name in found.state if not name.startswith(best)]
    said = [f"without {best!r} in all names" if not others else f"only what is under {best!r}, so not {some(others)}"]
    return Found(state, (*found.said, *said))


def some(which: Collection[str], limit: int = 3) -> str:
    """The first names, and how many more there are."""
    shown = [name[:80] for name in which][:limit]
    more = f" and {len(which) - limit} more" if len(which) > limit else ""
    return ", ".join(shown) + more


def _holder(content: Any, where: str) -> str | None:
    """The entry of a dictionary that holds the state dict; None where it is one itself."""
    if not isinstance(content, Mapping):
        return None
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping) and content[key]:
            return key
    if any(_is_tensor(value) for value in content.values()):
        return None
    full = [key for key, value in content.items() if isinstance(value, Mapping) and value and _all_tensors(value)]
    if len(full) > 1:
        raise TombolaError(
            f"checkpoint {where} holds several state dicts, {some(list(map(str, full)))}; save the one that is meant "
            "by itself: torch.save(checkpoint[name], file)"
        )
    return full[0] if full else None


def _state_dicts(content: Mapping[Any, Any]) -> list[str]:
    """The entries of a dictionary that are state dicts, or hold one and are named so."""
    full = {key: value for key, value in content.items() if isinstance(value, Mapping) and value}
    return [str(key) for key, value in full.items() if key in WRAPPERS or _all_tensors(value)]


def _prefix_of_all(names: Collection[str], lightning: bool) -> str | None:
    """What all names begin with, of DistributedDataParallel; of a Lightning module that holds nothing but its model.

    "model." is else the network's own: language models have it.
    """
    known = (_PARALLEL, _LIGHTNING) if lightning else (_PARALLEL,)
    return next((prefix for prefix in known if names and all(name.startswith(prefix) for name in names)), None)


def _heads(name: str) -> list[str]:
    """The prefixes that a name may carry: "module.", "module.model." of "module.model.fc.weight"."""
    heads: list[str] = []
    at = 0
    while len(heads) < _DEPTH:
        prefix = next((p for p in (_PARALLEL, _LIGHTNING) if name.startswith(p, at)), None)
        if prefix is None:
            break
        at += len(prefix)
        heads.append(name[:at])
    return heads


def _is_tensor(value: Any) -> bool:
    from torch import Tensor

    return isinstance(value, Tensor)


def _all_tensors(values: Mapping[Any, Any]) -> bool:
    return all(_is_tensor(value) for value in values.values())


def _described(content: Any) -> str:
    return "an empty dictionary" if isinstance(content, Mapping) else f"a {type(content).__name__}"
