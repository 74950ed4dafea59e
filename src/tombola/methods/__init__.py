"""The published methods by name: one short file each. This mapping is the only registry (torch-free)."""

from __future__ import annotations

from collections.abc import Mapping

from tombola.methods.base import Method
from tombola.methods.binary_weights import BinaryWeights
from tombola.methods.dense import DenseTraining
from tombola.methods.edge_popup import EdgePopup
from tombola.methods.gem_miner import GemMiner
from tombola.methods.imp import IterativePruning
from tombola.methods.iterand import IteRand
from tombola.methods.joint import Joint
from tombola.methods.learned_mask import LearnedMask
from tombola.methods.multi_prize import MultiPrize
from tombola.methods.multicoat import Multicoat
from tombola.methods.signed import SignedSupermask

METHODS: Mapping[str, type[Method]] = {
    kind.name: kind
    for kind in (
        IterativePruning,
        EdgePopup,
        IteRand,
        Multicoat,
        GemMiner,
        SignedSupermask,
        LearnedMask,
        Joint,
        MultiPrize,
        DenseTraining,
        BinaryWeights,
    )
}
"""Name on the command line -> dataclass whose fields are the method's options."""
