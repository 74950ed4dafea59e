"""What `study initialisations` searches: an IMP ticket and a supermask of one density, under every scheme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tombola.errors import TombolaError
from tombola.fields import check_fields, check_texts
from tombola.study.mask_pair import MaskPair, pair_arms
from tombola.study.setting import Arm, Setting

SCHEMES = ("kaiming_normal", "xavier_normal", "signed_constant")


@dataclass(frozen=True)
class Initialisations(MaskPair):
    """Do searches under other initialisations and seeds keep the same weights, and are their tickets as good?

    Args:
        inits: initialisation schemes, e.g. [kaiming_normal, kaiming_uniform]
        transfer: whether every mask is tried on the weights of every scheme too, and random masks on their own
    """

    inits: tuple[str, ...] = SCHEMES
    transfer: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self)
        if isinstance(self.inits, str) or not isinstance(self.inits, Sequence):
            raise TombolaError(f"inits is {self.inits!r}, but it must be a list of schemes, such as [{SCHEMES[0]}]")
        check_texts("inits", self.inits)
        object.__setattr__(self, "inits", tuple(self.inits))
        if not self.inits:
            raise TombolaError(f"inits is empty; name at least one scheme, such as {SCHEMES[0]}")
        for number, init in enumerate(self.inits):
            if init in self.inits[:number]:
                raise TombolaError(f"inits names {init} twice; give it once")


def arm_of(init: str, arm: Arm) -> Arm:
    """The search of an arm under one scheme."""
    return replace(arm, name=f"{init}, {arm.name}")


def init_arms(setting: Setting) -> dict[str, tuple[Arm, Arm]]:
    """Scheme -> its two searches; `setting.options` is an Initialisations."""
    plan: Initialisations = setting.options
    pair = pair_arms(setting)
    return {init: (arm_of(init, pair[0]), arm_of(init, pair[1])) for init in plan.inits}
