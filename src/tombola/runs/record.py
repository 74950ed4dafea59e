"""The keys that every JSON of Tombola has: those that commands print, and each `result.json`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SCHEMA = 1
"""Version of these JSONs. It grows when a key is removed or changes its meaning; new keys leave it as it is."""

_ACCURACY = re.compile(r"\b(train|val|test)_accuracy|(?<=_)(train|val|test)_accuracy")


def stamped(result: Mapping[str, Any]) -> dict[str, Any]:
    """`result` as it is written: `schema`, the version of `tombola` that writes it, `recipe`, and `named`.

    `recipe`: how the networks were trained, from the result; of a comparison what all arms have in common; null
    where there is no single recipe.
    """
    from tombola import __version__

    return {"schema": SCHEMA, "tombola": __version__, "recipe": result.get("recipe"), **named(result)}


def unstamped(written: Mapping[str, Any]) -> dict[str, Any]:
    """A written result without what `stamped` added, names of figures aside."""
    rest = {key: value for key, value in written.items() if key not in ("schema", "tombola", "format")}
    return rest if rest.get("recipe") is not None else {k: v for k, v in rest.items() if k != "recipe"}


def named(result: Mapping[str, Any]) -> dict[str, Any]:
    """`result` with `test_metric` beside `test_accuracy`, and so on, wherever its `metric` is not accuracy.

    `metric` holds for what lies within, unless that has its own. Keys that are there already stay.
    """
    result_named: dict[str, Any] = _named(result, "accuracy")
    return result_named


def _named(value: Any, metric: str) -> Any:
    if isinstance(value, list | tuple):
        return [_named(item, metric) for item in value]
    if not isinstance(value, Mapping):
        return value
    own = value.get("metric")
    metric = own if isinstance(own, str) else metric
    out = {}
    for key, item in value.items():
        out[key] = _named(item, metric)
        if metric != "accuracy" and isinstance(key, str) and _ACCURACY.search(key):
            out[key.replace("_accuracy", "_metric")] = out[key]
    return out


def shared(recipes: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings that all recipes have in common."""
    first, *others = recipes
    return {key: value for key, value in first.items() if all(key in r and r[key] == value for r in others)}
