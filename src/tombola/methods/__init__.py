"""The published methods by name, one short file each, and any other by its import path (torch-free)."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import isabstract

from tombola.errors import TombolaError
from tombola.fields import described
from tombola.methods.anneal import Anneal
from tombola.methods.at_init import AtInit
from tombola.methods.base import Method, check_declared
from tombola.methods.binary_weights import BinaryWeights
from tombola.methods.concrete import Concrete
from tombola.methods.continuous import Continuous
from tombola.methods.dense import DenseTraining
from tombola.methods.early_bird import EarlyBird
from tombola.methods.edge_popup import EdgePopup
from tombola.methods.evolve import Evolve
from tombola.methods.gem_miner import GemMiner
from tombola.methods.imp import IterativePruning
from tombola.methods.iterand import IteRand
from tombola.methods.joint import Joint
from tombola.methods.learned_mask import LearnedMask
from tombola.methods.multi_prize import MultiPrize
from tombola.methods.multicoat import Multicoat
from tombola.methods.random_search import RandomSearch
from tombola.methods.signed import SignedSupermask
from tombola.methods.winning_sign import SignTransfer
from tombola.names import imported, is_import_path, unknown

METHODS: Mapping[str, type[Method]] = {
    kind.name: kind
    for kind in (
        IterativePruning,
        AtInit,
        EarlyBird,
        EdgePopup,
        IteRand,
        Multicoat,
        GemMiner,
        Concrete,
        Continuous,
        SignedSupermask,
        LearnedMask,
        Joint,
        MultiPrize,
        SignTransfer,
        Anneal,
        Evolve,
        RandomSearch,
        DenseTraining,
        BinaryWeights,
    )
}
"""Name on the command line -> dataclass whose fields are the method's options."""


def method_class(name: str) -> type[Method]:
    """A method's dataclass by short name or by import path (`package.module.Class` or `package.module:Class`).

    Raises:
        TombolaError: the name is unknown, or no method that can be made of options lies at the path.
    """
    if name in METHODS:
        return METHODS[name]
    if not is_import_path(name):
        raise TombolaError(unknown("method", name, METHODS, ", or an import path such as package.module.Class"))
    kind = imported("method", name)
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise TombolaError(f"method {name!r} is {described(kind)}, not a subclass of tombola.methods.base.Method")
    if isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))
        raise TombolaError(f"method {name!r} has no {missing} of its own; write it")
    if "__dataclass_fields__" not in vars(kind):
        raise TombolaError(f"method {name!r} is not a dataclass; put @dataclass(frozen=True) above it")
    check_declared(kind)
    return kind
