"""The published methods by name: one short file each. This mapping is the only registry (torch-free)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tombola.methods.dense import DenseTraining
from tombola.methods.edge_popup import EdgePopup
from tombola.methods.imp import IterativePruning
from tombola.methods.joint import Joint
from tombola.methods.learned_mask import LearnedMask

METHODS: Mapping[str, type[Any]] = {
    kind.name: kind for kind in (IterativePruning, EdgePopup, LearnedMask, Joint, DenseTraining)
}
"""Name on the command line -> dataclass whose fields are the method's options."""
