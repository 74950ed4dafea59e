"""What layers and regions can run in, on this machine's processor and on GPUs."""

from collections.abc import Sequence
from typing import Any

from tombola.deploy.kernels.binary.kernel import PACKED
from tombola.deploy.kernels.gemv.kernel import GEMV
from tombola.deploy.kernels.int8.kernel import INT8
from tombola.deploy.kernels.kernel import Kernel
from tombola.deploy.kernels.sparse.kernel import SPARSE

__all__ = ["KERNELS", "Kernel"]

KERNELS: Sequence[Kernel[Any]] = (SPARSE, GEMV, INT8, PACKED)
"""Of the CPU."""
