"""Masks read while a network trains: how far each lies from the others, and from when on they are stable."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola.errors import TombolaError
from tombola.levels.detector import Detector, Seen
from tombola.results.trial import MaskHistory
from tombola.train.hooks import Hook
from tombola.train.length import steps

if TYPE_CHECKING:
    from tombola.train.state import Loop

__all__ = ["Detector", "Measure", "Read", "WatchMasks", "differing"]

Bits = NDArray[np.uint8]
"""A mask, concatenated and packed, eight units to a byte; what is left of the last byte is 0."""
Read = Callable[["Loop"], Mapping[str, Tensor] | None]
"""The mask as it would be now: bool tensors by name, on any device, the same names and shapes every time; or none."""
Measure = Callable[["Loop", dict[str, Tensor]], float]
"""What a detector looks at that is not the mask. The dict is kept from read to read, and checkpointed."""

MOST_BYTES = 32 * 2**20
"""Of packed masks that are kept for the distances of all pairs."""
MOST_READS = 100
"""Of a training that is not to be stopped."""


class WatchMasks(Hook):
    """Reads a mask at the start of a training and every `every`, and ends the training once it is stable.

    The mask at the start counts as the first. Reading must change nothing: neither the model nor any generator. A
    snapshot of another training to start from must not hold this hook's state.

    Args:
        read: gives the mask; the hooks that bring it about (`Refresh`) go before this one.
        unit: what the mask is over: "weights" or "channels".
        density: fraction of the units that each mask keeps; None where it is an outcome.
        detector: what watches for a stable mask; None: nothing does.
        every: the length between two reads.
        stop: whether the training ends when the detector has found the mask stable. It never ends later than planned.
        measure: what detectors of other kinds than "mask" compare.
        most: of reads; where there would be more, they lie a multiple of `every` apart, too far for the detector, which
            then is none. None: any number.
        begin: the iteration from which on masks count for the detector.
    """

    stacks = True

    def __init__(
        self,
        read: Read,
        *,
        unit: str,
        density: float | None,
        detector: Detector | None = None,
        every: str = "1ep",
        stop: bool = True,
        measure: Measure | None = None,
        most: int | None = None,
        begin: int = 0,
    ) -> None:
        if detector is not None and detector.kind != "mask" and measure is None:
            raise TombolaError(f"detector {detector.kind} needs a measure; give one, or take detector mask")
        self.read, self.unit, self.density, self.detector = read, unit, density, detector
        self.every, self.stop, self.measure, self.most, self.begin = every, stop, measure, most, begin
        self._threshold = None if detector is None else detector.threshold(density)
        self._spacing = 1
        self._planned: int | None = None
        self._total: int | None = None
        self._steps: list[int] = []
        self._bits: list[Bits] = []  # of all masks, or of the last ones alone
        self._differing: list[int] = []  # units in which a mask differs from the one before, from the second on
        self._measured: list[float] = []
        self._signal: list[float | None] = []
        self._memory: dict[str, Tensor] = {}
        self._emerged: int | None = None

    def on_start(self, loop: Loop) -> None:
        """The first mask, unless the training is resumed."""
        every = max(1, steps(self.every, loop.steps_per_epoch))
        times = 1 if self.most is None else math.ceil(loop.total / (every * self.most))
        self._spacing, self._planned = every * max(1, times), loop.total
        if times > 1:
            self.detector = self._threshold = None
        if not self._steps:
            self._look(loop)

    def after_step(self, loop: Loop) -> None:
        """The next mask, where one is due."""
        if loop.step % self._spacing == 0:
            self._look(loop)

    @torch.no_grad()
    def _look(self, loop: Loop) -> None:
        with torch.random.fork_rng(devices=[loop.device] if loop.device.type == "cuda" else []):
            mask = self.read(loop)
            if mask is None:
                return
            flat = torch.cat([kept.detach().flatten() for kept in mask.values()])
            self._add(np.packbits(flat.to("cpu", torch.bool).numpy()), flat.numel())
            if self.measure is not None:
                self._measured.append(float(self.measure(loop, self._memory)))
        self._steps.append(loop.step)
        if self.detector is not None and self._threshold is not None:
            self._judge(loop, self.detector, self._threshold)

    def _judge(self, loop: Loop, detector: Detector, threshold: float) -> None:
        signal = detector.signal(self._seen(detector.window)) if len(self._steps) > 1 else None
        self._signal.append(signal)
        if self._emerged is None and detector.stable(signal, threshold):
            self._emerged = loop.step
            if self.stop and loop.step < loop.total:
                loop.stop(f"{_FOUND[detector.kind]} at iteration {loop.step:,}")

    def _add(self, bits: Bits, total: int) -> None:
        if self._total not in (None, total):
            raise TombolaError(f"a mask over {total:,} units was read after one over {self._total:,}; read the same")
        self._total = total
        if self._bits:
            self._differing.append(differing(self._bits[-1], bits))
        self._bits.append(bits)
        if not self._all_kept(len(self._steps) + 1):
            del self._bits[: -(1 if self.detector is None else self.detector.window)]

    def _all_kept(self, masks: int) -> bool:
        return masks * len(self._bits[-1]) <= MOST_BYTES if self._bits else True

    def _seen(self, window: int) -> Seen:
        """What counts for the detector: all from `begin` on."""
        count = sum(step >= self.begin for step in self._steps)
        if count == 0:
            return Seen()
        *older, newest = self._bits[-min(window, count) :]
        first = len(self._differing) + 1 - count
        return Seen(
            distances=self._fractions(self._differing[first:][-window:]),
            to_older=self._fractions([differing(mask, newest) for mask in older]),
            measured=self._measured[-count:],
        )

    def _fractions(self, counts: Sequence[int]) -> list[float]:
        return [count / max(self._total or 0, 1) for count in counts]

    @property
    def emerged(self) -> int | None:
        """The iteration at which the mask was found stable; None up to then."""
        return self._emerged

    def history(self) -> MaskHistory:
        """All that was read up to now."""
        matrix = None
        if len(self._bits) == len(self._steps):
            rows = ([differing(mask, other) for other in self._bits[:i]] for i, mask in enumerate(self._bits))
            matrix = tuple(tuple(self._fractions(row)) for row in rows)
        return MaskHistory(
            unit=self.unit,
            density=self.density,
            steps=tuple(self._steps),
            distances=(None, *self._fractions(self._differing)) if self._steps else (),
            matrix=matrix,
            detector=None if self.detector is None else self.detector.kind,
            signal=None if self.detector is None else tuple(self._signal),
            threshold=self._threshold,
            emerged=self._emerged,
            planned=self._planned,
        )

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "total": self._total,
            "steps": list(self._steps),
            "bits": [torch.from_numpy(mask) for mask in self._bits],
            "differing": list(self._differing),
            "measured": list(self._measured),
            "signal": list(self._signal),
            "memory": dict(self._memory),
            "emerged": self._emerged,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._total, self._emerged = state["total"], state["emerged"]
        self._steps, self._bits = list(state["steps"]), [mask.numpy().copy() for mask in state["bits"]]
        self._differing, self._measured = list(state["differing"]), list(state["measured"])
        self._signal, self._memory = list(state["signal"]), dict(state["memory"])


def differing(a: Bits, b: Bits) -> int:
    """In how many units two packed masks differ."""
    return int(np.bitwise_count(a ^ b).sum(dtype=np.int64))


_FOUND = {
    "mask": "mask stable",
    "displacement": "displacement stable",
    "correlation": "correlations near the dense network's",
    "gradient": "gradients near the dense network's",
}
