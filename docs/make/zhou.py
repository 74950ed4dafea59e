"""docs/deconstructing.md: Zhou's criteria, kept and pruned actions, and masks without any training, on MNIST."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pages import Claim, Table
from results import Difference, contrast, networks, number, sign, spread

PAGE = "docs/deconstructing.md"
CRITERIA, KEPT, PRUNED = "mnist-criteria", "mnist-kept-actions", "mnist-pruned-actions"
REFERENCE = "large_final / rewind / zero"
PART = {CRITERIA: 0, KEPT: 1, PRUNED: 2}
"""Which part of a combination's name a study varies."""


def densities(study: str) -> list[str]:
    """As the arms' names have them, from dense to sparse."""
    found = [name.rpartition(" at ")[2] for name in networks(study).arms() if " at " in name]
    return list(dict.fromkeys(found))


def combinations(study: str) -> list[str]:
    """The reference first."""
    found = [name.rpartition(" at ")[0] for name in networks(study).arms() if " at " in name]
    return list(dict.fromkeys(found))


def combination(study: str, part: str) -> str:
    """The one that differs from the reference in a single part."""
    parts = REFERENCE.split(" / ")
    parts[PART[study]] = part
    return " / ".join(parts)


def against_reference(study: str, part: str, density: str) -> Difference:
    """Test accuracy, paired by search, over training seeds and test images."""
    return contrast(study, f"{combination(study, part)} at {density}", f"{REFERENCE} at {density}")


def signs(study: str, parts: Sequence[str], kept: Sequence[str]) -> list[int]:
    return [sign(against_reference(study, part, density)) for part in parts for density in kept]


def cell(study: str, name: str, density: str) -> str:
    """Mean ± half of the interval; an arrow where the difference from the reference is significant."""
    values = networks(study).last_levels().where(arm=f"{name} at {density}").values("test_accuracy")
    if name == REFERENCE:
        return spread(values)
    way = sign(contrast(study, f"{name} at {density}", f"{REFERENCE} at {density}"))
    return spread(values) + {1: " ↑", 0: "", -1: " ↓"}[way]


def rows(study: str) -> Iterator[tuple[str, ...]]:
    kept = densities(study)
    yield "", *kept
    for name in combinations(study):
        yield f"`{name.split(' / ')[PART[study]]}`", *(cell(study, name, density) for density in kept)


def tables() -> Iterator[Table]:
    for study in PART:
        yield Table(study, list(rows(study)))


def shown(found: Difference) -> str:
    return number(100 * found.difference, 2, sign=True)


def claims() -> Iterator[Claim]:
    return iter(())
