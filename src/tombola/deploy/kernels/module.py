"""The base class of modules that run in native kernels."""

from __future__ import annotations

from torch import nn


class KernelModule(nn.Module):
    """Inference only. Lowering leaves it as it is; `nbytes` are the bytes that its weights take."""

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return 0
