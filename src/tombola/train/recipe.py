"""How a network is trained: one frozen dataclass, whose fields are the CLI options and the YAML keys."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass

from tombola.errors import TombolaError
from tombola.fields import check_fields
from tombola.names import check_known
from tombola.train.length import Length

SCHEDULES = ("constant", "step", "cosine", "plateau")
LEVELS_SHARE = ("precision",)
"""Fields that all levels of a search have in common: the machine is set up by them once."""
PRECISIONS = ("32", "bf16-mixed", "bfp8")


@dataclass(frozen=True)
class Recipe:
    """Optimiser, learning rate, length and evaluation of one training run.

    Args:
        length: how long to train: epochs ("10ep"), iterations ("5000it") or both ("2ep500it")
        batch_size: examples per optimiser step
        optimizer: sgd, adam, adamw, or the import path of a torch optimiser class
        lr: peak learning rate
        momentum: momentum of SGD
        nesterov: whether SGD's momentum is Nesterov's
        weight_decay: weight decay, on all parameters
        label_smoothing: label smoothing of the training loss
        penalty: what the training loss adds for every prunable weight that is trained: l1 (sum of sizes), hoyer (its
            square over the sum of squares, per layer), or the import path of a function of a weight; null: nothing
        strength: factor of the penalty, e.g. 1e-4
        schedule: learning-rate schedule: constant, step, cosine (to 0) or plateau (cut when training stalls)
        milestones: where the step schedule multiplies the learning rate by gamma, e.g. ["80ep", "120ep"]
        gamma: factor at each milestone, or at each plateau
        patience: evaluations without a better training metric before the learning rate is multiplied by gamma (plateau)
        warmup: length of a linear warm-up from 0, e.g. "1ep"
        precision: 32, bf16-mixed for bfloat16 autocast, or bfp8: weights, activations, gradients and momentum in 8-bit
            block floating point, rounded stochastically (simulated; it is slower than 32)
        channels_last: memory layout of images; null chooses it for networks with 2-d convolutions
        clip_norm: clip the gradient's norm to this; null: no clipping
        accumulate: cut each batch into this many parts and add up their gradients (saves memory)
        eval_every: how often to evaluate on the validation split, e.g. "100it" or "1ep"
        train_eval: examples of the training split that are evaluated once at the end, unaugmented and in evaluation
            mode, for the generalisation gap: a number, "val" (as many as the validation split has) or "all"
    """

    length: str = "10ep"
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    penalty: str | None = None
    strength: float = 0.0
    schedule: str = "constant"
    milestones: tuple[str, ...] = ()
    gamma: float = 0.1
    patience: int = 2
    warmup: str = "0it"
    precision: str = "32"
    channels_last: bool | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    eval_every: str = "1ep"
    train_eval: int | str = "val"

    def __post_init__(self) -> None:
        for name in ("length", "warmup", "eval_every"):
            Length.parse(getattr(self, name))
        check_fields(self)
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for field in ("batch_size", "accumulate", "patience"):
            value = getattr(self, field)
            object.__setattr__(self, field, operator.index(value))
        for text in self.milestones:
            Length.parse(text)
        _require(Length.parse(self.length) != Length(), "length", self.length, "longer than nothing")
        _require(Length.parse(self.eval_every) != Length(), "eval_every", self.eval_every, "longer than nothing")
        _require(1 <= self.batch_size <= _MOST, "batch_size", self.batch_size, f"between 1 and {_MOST:,}")
        _require(
            1 <= self.accumulate <= self.batch_size,
            "accumulate",
            self.accumulate,
            "between 1 and the batch size",
        )
        _require(math.isfinite(self.lr) and self.lr >= 0, "lr", self.lr, "a number of at least 0")
        _require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "a number of at least 0")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        _require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")
        _require(0 <= self.strength < math.inf, "strength", self.strength, "a number of at least 0")
        if (self.penalty is None) != (self.strength == 0):
            has = f"penalty is {self.penalty[:80]!r}" if self.penalty is not None else f"strength is {self.strength:g}"
            raise TombolaError(
                f"{has}, but no {'strength' if self.strength == 0 else 'penalty'} is given; "
                "give both, e.g. penalty l1 and strength 1e-4, or neither"
            )
        clips = self.clip_norm is None or 0 < self.clip_norm < math.inf
        _require(clips, "clip_norm", self.clip_norm, "a number above 0, or null")
        check_known("schedule", self.schedule, SCHEDULES)
        if isinstance(self.train_eval, str) and re.fullmatch(r"[0-9]{1,18}", self.train_eval):
            object.__setattr__(self, "train_eval", int(self.train_eval))
        size = self.train_eval
        _require(
            size in ("val", "all") or (isinstance(size, int) and not isinstance(size, bool) and size >= 1),
            "train_eval",
            size,
            '"val", "all" or a number of examples of at least 1',
        )
        _require(self.patience >= 1, "patience", self.patience, "at least 1")
        check_known("precision", self.precision, PRECISIONS)
        _require(
            bool(self.milestones) or self.schedule != "step",
            "milestones",
            list(self.milestones),
            'lengths such as ["80ep", "120ep"] when the schedule is step',
        )
        _require(math.isfinite(self.gamma) and self.gamma > 0, "gamma", self.gamma, "a number above 0")
        _require(
            0 < self.gamma < 1 or self.schedule != "plateau",
            "gamma",
            self.gamma,
            "between 0 and 1 when the schedule is plateau",
        )


_MOST = 10_000_000
"""Examples of one step, at most: more is a slip of the hand."""


def _require(holds: bool, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise TombolaError(f"{field} is {value!r}, but it must be {allowed}")
