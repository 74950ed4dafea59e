"""The kinds of curve by name."""

from __future__ import annotations

from collections.abc import Mapping

from tombola.names import check_known
from tombola.study.double_descent.base import Kind
from tombola.study.double_descent.density import SparseDescent
from tombola.study.double_descent.forest import Forest
from tombola.study.double_descent.random_features import FourierFeatures, ReluFeatures
from tombola.study.double_descent.width import Width

KINDS: Mapping[str, type[Kind]] = {
    kind.name: kind for kind in (FourierFeatures, ReluFeatures, Width, Forest, SparseDescent)
}
"""What `--kind` takes."""


def kind_of(name: str) -> type[Kind]:
    """The kind of that name.

    Raises:
        TombolaError: there is none.
    """
    check_known("kind", name, KINDS)
    return KINDS[name]
