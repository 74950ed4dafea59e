"""The modules that run binary layers in a deployed network; between them activations stay packed."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tombola.deploy.jit.program import Compiled, Program
from tombola.deploy.kernels.binary.layer import Bits, ConvWindow, Maps, Packing, Sums, Weights
from tombola.deploy.kernels.binary.lookup import looks_up
from tombola.deploy.kernels.module import KernelModule
from tombola.machine.locks import Lock
from tombola.machine.memory import address, checked, given, made

_CACHED = 4  # batch sizes whose tables are kept
_SHARED = 2**19  # values; fewer are packed in about the time that waking a thread takes


class _PackedModule(Compiled, KernelModule):
    """Prepared for each batch size, under a lock: nothing else in it changes; one call runs at a time."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self._threads = threads
        self._lock = Lock()
        self._prepared: OrderedDict[int, Any] = OrderedDict()

    def prepare(self, batch: int) -> Any:
        """The program and its buffers for a batch size."""
        raise NotImplementedError

    def _for(self, batch: int) -> Any:
        if batch not in self._prepared:
            self._prepared[batch] = self.prepare(batch)
            while len(self._prepared) > _CACHED:
                self._prepared.popitem(last=False)
        self._prepared.move_to_end(batch)
        return self._prepared[batch]


class PackSigns(_PackedModule):
    """Float32 (N, C, H, W) or (N, F) → packed signs, int64 (N, rows, columns, words) as `Maps` says."""

    def __init__(self, maps: Maps, threads: int) -> None:
        super().__init__(threads)
        self.maps = maps

    def prepare(self, batch: int) -> dict[bool, tuple[Program, Packing]]:
        """For images read channel by channel, and for those whose pixels have contiguous channels."""
        few = batch * self.maps.channels * self.maps.height * self.maps.width < _SHARED
        orders = (False, True) if self.maps.has_planes else (False,)
        made = {planes: Packing(self.maps, batch, planes=planes) for planes in orders}
        return {planes: (Program([one.step], 1 if few else self._threads), one) for planes, one in made.items()}

    def forward(self, x: Tensor) -> Tensor:
        """+1 where x >= 0, as `binary_sign`."""
        maps = self.maps
        flat = (maps.channels, maps.height, maps.width) if x.dim() == 4 else (maps.channels,)
        x = checked(x, torch.float32, flat, "what is packed")
        out = torch.from_numpy(maps.empty(len(x)))
        if out.numel():
            images = x.reshape(len(x), maps.channels, maps.height, maps.width)
            pixels = images.permute(0, 2, 3, 1)
            planes = maps.has_planes and not pixels.is_contiguous()
            if not planes:  # no copy where none is needed: torch's threads would stay busy for a while after it
                images = pixels if maps.channels % 8 == 0 else F.pad(pixels, (0, -maps.channels % 8), value=-1.0)
            images = images.contiguous()
            read = len(x) * maps.height * maps.width * (maps.channels if planes else -(-maps.channels // 8) * 8)
            ends = address(images, torch.float32, read), address(out, torch.int64, out.numel())
            with self._lock.alone():
                program, packing = self._for(len(x))[planes]
                packing.step.args[:2] = ends
                program.run()
        return out


@dataclass(frozen=True, eq=False)
class BitThreshold:
    """What follows a layer up to the next signs, folded: pooling, and bit = (sum >= threshold) ^ flip per channel.

    `thresholds`: int32, `flips`: uint8 bits, for channels up to a multiple of 8. `maps`: of the result.
    """

    pool: ConvWindow | None
    thresholds: NDArray[np.int32]
    flips: NDArray[np.uint8]
    maps: Maps


class PackedLayer(_PackedModule):
    """A binary convolution or linear layer on packed signs → its float32 output, or, with a threshold, packed signs.

    The floats are those of `BinaryConv2d` and `BinaryLinear`, to the bit: the exact sum times the scale, plus the bias.
    `look_up`: whether many positions are counted by table look-up; None: where that is the faster method.
    """

    def __init__(
        self,
        weights: Weights,
        window: ConvWindow,
        maps: Maps,
        *,
        out: int,
        flat: bool,
        after: BitThreshold | None,
        threads: int,
        look_up: bool | None = None,
    ) -> None:
        super().__init__(threads)
        self._look_up = looks_up() if look_up is None else look_up
        self.weights, self.window, self.maps, self.after = weights, window, maps, after
        self._out, self._flat = out, flat

    @property
    def nbytes(self) -> int:
        """Bytes of signs, masks, scales and thresholds."""
        after = self.after
        return self.weights.nbytes + (0 if after is None else after.thresholds.nbytes + after.flips.nbytes)

    def prepare(self, batch: int) -> tuple[Program, Sums, Bits | None]:
        """The program for batches of that size, and where it writes sums and bits."""
        floats = self.after is None
        sums = Sums(self.weights, self.window, self.maps, batch, self._threads, floats=floats, look_up=self._look_up)
        if self.after is None:
            return Program([sums.step], self._threads), sums, None
        bits = Bits(sums, self.after.pool, self.after.thresholds, self.after.flips, self.after.maps)
        return Program([sums.step, bits.step], self._threads), sums, bits

    def forward(self, bits: Tensor) -> Tensor:
        """Packed signs of any number of images."""
        bits, source = given(bits, torch.int64, (*self.maps.rows, self.maps.words), "what a packed layer reads")
        batch = len(bits)
        high, wide = self.window.out(self.maps)
        if self.after is None:
            whole, target = made((batch, high, wide, len(self.weights.scale)), torch.float32)
        else:
            whole = torch.from_numpy(self.after.maps.empty(batch))
            target = address(whole, torch.int64, whole.numel())
        if whole.numel():
            with self._lock.alone():
                program, sums, compared = self._for(batch)
                sums.step.args[0] = source
                if compared is None:
                    sums.step.args[8] = target
                else:
                    compared.step.args[6] = target
                program.run()
        if self.after is not None:
            return whole
        kept = whole[..., : self._out]
        if self._out != whole.shape[-1]:
            kept = kept.contiguous()
        return kept.reshape(batch, self._out) if self._flat else kept.permute(0, 3, 1, 2)
