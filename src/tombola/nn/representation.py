"""The kinds of weight representation: what a latent weight w stands for in the forward pass."""

from __future__ import annotations

from typing import Literal

Kind = Literal["identity", "signed_constant", "binary", "rescaled"]
"""w; sign(w)·s with sign(0) = 0; α·sign(w) with sign(0) = +1; w·s."""
