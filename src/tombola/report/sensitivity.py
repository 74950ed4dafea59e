"""The picture of how much each layer matters: a row for each, a column for each density."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tombola.formats import density
from tombola.report import style
from tombola.report.axes import name_rows, round_ticks
from tombola.results.sensitivity import ACCURACY, Sensitivity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW, _REST, _LEAST = 0.17, 1.1, 2.1
"""Heights in inches: of a layer, of all else, and what the words beside the scale need."""


def sensitivity_figure(found: Sensitivity) -> Figure:
    """What the network loses with one layer pruned: points of accuracy, or output error in percent up to 100."""
    import numpy as np

    losses = found.losses()
    shares = 100 * np.asarray([losses[layer.name] for layer in found.layers], dtype=float)
    shown = np.clip(np.nan_to_num(shares, nan=math.inf), 0, 100)
    with style.styled():
        figure = style.new_figure(max(_LEAST, _REST + _ROW * len(found.layers)))
        axes = figure.add_subplot()
        drawn = axes.imshow(shown, cmap="viridis", vmin=0, aspect="auto", interpolation="none")
        axes.grid(visible=False)
        names = [layer.name.removesuffix(".weight") for layer in found.layers]
        name_rows(axes, names, edge=0.5, small=len(names) > 20)
        axes.set_xticks(range(len(found.densities)), [density(kept).replace(".00", "") for kept in found.densities])
        axes.set_xlabel("Weights kept of one layer")
        bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.03)
        bar.outline.set_visible(False)
        round_ticks(bar.ax.yaxis)
        bar.set_label("Accuracy lost (points)" if found.measure == ACCURACY else "Output error (%)")
    return figure
