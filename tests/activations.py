"""Every activation that kernels hold, with numbers where it takes some."""

from __future__ import annotations

from hypothesis import strategies as st

from tombola.deploy.jit.activations import EMITTED
from tombola.deploy.ops import Activation

_NUMBERS = {"hardtanh": (-1.0, 2.0), "leaky_relu": (0.1,)}
ACTIVATIONS = [Activation(name, _NUMBERS.get(name, ())) for name in EMITTED]
PERHAPS = st.sampled_from([None, *ACTIVATIONS])
