"""All tables, claims, figures and docstrings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import digits
import docstrings
import double_descent
import early_bird
import figures
import geometry
import given
import initialisations
import joint
import links
import mask_init
import methods
import mnist
import mnist_time
import multi_prize
import other_ways
import overlap
import packages
import questions
import readme
import regularisation
import reproductions
import sparse_descent
import speed
import stopping
import supermasks
import tasks
import trained
import verdict
import zhou
import zhou_untrained
from pages import Claim, Fault, Table, put_right

PAGES = (
    "README.md",
    "docs/mnist.md",
    "docs/supermasks.md",
    "docs/multi-prize.md",
    "docs/benchmarks.md",
    "docs/deploy.md",
    "docs/methods.md",
    "docs/deconstructing.md",
    "docs/early-bird.md",
    "docs/other-ways.md",
    "docs/tasks.md",
    "docs/trained.md",
    "docs/sparse-double-descent.md",
    "docs/verdict.md",
    "docs/geometry.md",
    "docs/double-descent.md",
    "docs/questions.md",
)
PARTS = (
    readme,
    mnist,
    mnist_time,
    supermasks,
    joint,
    regularisation,
    overlap,
    digits,
    mask_init,
    multi_prize,
    speed,
    methods,
    verdict,
    zhou,
    zhou_untrained,
    early_bird,
    stopping,
    other_ways,
    tasks,
    trained,
    geometry,
    initialisations,
    sparse_descent,
    double_descent,
    questions,
    given,
)


def tables() -> Mapping[str, Table]:
    return {table.name: table for part in PARTS for table in part.tables()}


def claims() -> list[Claim]:
    return [claim for part in PARTS for claim in part.claims()]


def faults(write: Callable[[Path, str], None]) -> list[Fault]:
    """What pages and figures say that the results do not, public names without docstrings, packages without a place.

    Pages that change are given to `write`.
    """
    return [
        *put_right(tables(), claims(), PAGES, write),
        *reproductions.faults(write),
        *figures.faults(),
        *docstrings.faults(),
        *packages.faults(),
        *links.faults(),
    ]
