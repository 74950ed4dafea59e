"""A ticket whose recipe names `os.system`, and a module of the attacker's, as the optimizer of its training.

`tombola verify` trains a ticket by the recipe that it was found with. That recipe stands in the file, so that whoever
wrote the file chose its words. A name without a dot is looked up among Tombola's optimisers; any other is refused
before anything is imported, until the user names it himself or trusts its prefix.
"""

from __future__ import annotations

import sys
from pathlib import Path

import _hostile

NAMES = ("os.system", "os:system", "tombola_evil.Optimizer", "torch.optim.adam.torch.os.system", "builtins.eval")


def attack(folder: Path) -> None:
    (folder / "tombola_evil.py").write_text(f"open({str(folder / 'imported')!r}, 'w')\n")
    sys.path.insert(0, str(folder))
    try:
        for name in NAMES:
            ticket = _hostile.ticket(recipe={"optimizer": name})
            for trusted in ((), ("torch.optim",)):
                said = _hostile.refused(_hostile.verified, ticket, folder / "runs", trusted)
                assert "trust" in said, said
    finally:
        sys.path.remove(str(folder))
    assert not (folder / "imported").exists(), "the module that the ticket names was imported"
    assert "tombola_evil" not in sys.modules
    assert not (folder / "runs").exists(), "something was written for a ticket that was refused"
