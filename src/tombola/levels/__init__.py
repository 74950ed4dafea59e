"""What methods are made of: a search and its levels, the pruning loop, learned masks, rewinding.

Each name is loaded when it is first used, so that methods are read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tombola.levels.context import context_of
    from tombola.levels.search import Level, Search
    from tombola.levels.stage import train_dense, train_under

__all__ = ["Level", "Search", "context_of", "train_dense", "train_under"]

_HOME = {"context": ["context_of"], "search": ["Level", "Search"], "stage": ["train_dense", "train_under"]}
__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs=_HOME)
