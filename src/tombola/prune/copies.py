"""A user's network, copied so that it can be pruned."""

from __future__ import annotations

import copy

from torch import nn

from tombola.errors import TombolaError
from tombola.hold import release


def copied(model: nn.Module) -> nn.Module:
    """The copy, without the masks that are held on the model.

    Raises:
        TombolaError: the model keeps something that no copy can be made of.
    """
    try:
        found = copy.deepcopy(model)
    except Exception as error:  # what a module keeps may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(".  ")[0]
        raise TombolaError(
            f"the model cannot be copied ({reason}); make what was attached to it plain first, e.g. with "
            "torch.nn.utils.prune.remove, and keep locks, files and outputs of its layers out of its attributes"
        ) from None
    release(found)
    return found
