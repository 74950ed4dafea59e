"""A network pruned bit by bit while somebody's own loop trains it; masks held through fine-tuning, adapters included.

One object, `Gradual`, is stepped by a bare loop, by Lightning (`.lightning()`) or by the Hugging Face Trainer
(`.transformers()`).
"""

from tombola.gradual.adapters import merge_adapters
from tombola.gradual.pruner import Gradual, UnfinishedScheduleWarning
from tombola.gradual.schedule import Cubic, cubic

__all__ = ["Cubic", "Gradual", "UnfinishedScheduleWarning", "cubic", "merge_adapters"]
