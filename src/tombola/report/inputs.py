"""Input coverage of a ticket: the share of the first layer's weights that it keeps at each input position."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola.errors import TombolaError
from tombola.formats import density, plural
from tombola.report import style
from tombola.report.aggregate import pick
from tombola.report.axes import iterations_axis, legend_above, round_ticks
from tombola.report.looks import CONTROLS, Look, Looks
from tombola.report.plot import Plot, Remark, Shown, sentences
from tombola.report.read import Run
from tombola.report.style import plain
from tombola.results.comparison import ComparisonResult
from tombola.results.overlap import OverlapResult
from tombola.results.trial import LevelResult

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch import Tensor

    Shares = NDArray[np.float32]

MAX_CHANNELS = 4
MAX_MASKS = 4
RANDOM = "Random mask"


@dataclass(frozen=True)
class Reading:
    """Shares of a first layer's weights that a mask keeps.

    ``shares``: fraction of the weights that are kept at each input position: (inputs,), or (channels, height, width) of
    the image, or of the kernel of a convolution. ``random``: the same of a random mask with as many weights kept in
    that layer. ``each``: number of weights per position.
    """

    layer: str
    shares: Shares
    random: Shares
    each: int
    kernel: bool

    @property
    def position(self) -> str:
        """Kind of position."""
        if self.shares.ndim == 1:
            return "input"
        what = "kernel place" if self.kernel else "pixel"
        return f"input channel and {what}" if 1 < len(self.shares) <= MAX_CHANNELS else what

    @property
    def flat(self) -> bool:
        """Whether all positions have the same share, so that a picture would show nothing."""
        return float(self.shares.max() - self.shares.min()) == 0.0


def by_position(keep: Tensor, shape: Sequence[int]) -> Shares | None:
    """Fraction of a first layer's weights that are kept at each input position; None if the shapes do not fit.

    Args:
        keep: bool, (outputs, inputs) of a fully connected layer, or (outputs, channels, ...) of a convolution.
        shape: of one input example, channels first.

    Returns:
        (inputs,) for vectors, else (channels, height, width) of the image, or (channels, kernel height, kernel width);
        a kernel of one dimension counts as one of height 1.
    """
    share = keep.float().mean(0)
    if keep.dim() == 2 and keep.shape[1] == math.prod(shape):
        if len(shape) == 1:
            return share.numpy()
        return share.reshape(1, *shape).numpy() if len(shape) == 2 else share.reshape(-1, *shape[-2:]).numpy()
    if keep.dim() in (3, 4) and len(shape) == keep.dim() - 1 and keep.shape[1] == shape[0]:
        return share.reshape(shape[0], -1, keep.shape[-1]).numpy()
    return None


def read_ticket(path: Path, shape: Sequence[int] | None, seed: int) -> Reading | None:
    """Input coverage of the ticket in a file, and of a random mask drawn from ``seed``.

    None if the first masked layer does not take the input (the first layer may be excluded from the mask), or if the
    input's shape is not known.

    Raises:
        TombolaError: the file is no ticket.
    """
    from tombola.mask import Mask
    from tombola.rng.seeds import derive
    from tombola.study.arms import random_like, transposed_in
    from tombola.study.recorded import recorded_part
    from tombola.ticket.ticket import Ticket

    ticket = Ticket.load(path)
    network = ticket.origin.network
    known = shape or (network.input_shape if network is not None else None)
    name, keep = next(((name, keep) for name, keep in ticket.mask.items() if keep.dim() > 1), ("", None))
    if keep is None:
        return None
    turned = [name] if name in transposed_in(ticket) else []

    def upright(mask: Tensor) -> Tensor:
        return mask.t() if turned else mask

    if not known or (shares := by_position(upright(keep), known)) is None:
        return None
    pattern = str(recorded_part(ticket, "method").get("pattern", "element"))
    drawn = random_like(Mask({name: keep}), pattern, derive(seed, "report"), turned)[name]
    random = by_position(upright(drawn), known)
    assert random is not None
    return Reading(name, shares, random, len(upright(keep)), keep.dim() > 2)


def input_plots(run: Run, looks: Looks) -> list[Shown]:
    """The picture of a search's sparsest ticket, of its first replicate, beside a random mask."""
    find = run.find
    if find is None or not find.replicates:
        return []
    first = find.replicates[0]
    level = _last(first.arms.get("ticket", ()))
    if level is None or level.ticket is None:
        return []
    title = "What the ticket looks at"
    try:
        reading = read_ticket(Path(level.ticket), find.input_shape, first.seed or 0)
    except TombolaError as error:
        return [Remark(f"{title}: the ticket's file cannot be read ({error}).")]
    if reading is None or reading.flat:
        return []
    which = "of the first search, " if len(find.replicates) > 1 else ""
    shown = {"Ticket": reading.shares, RANDOM: reading.random}
    caption = sentences(
        f"Share of the first layer's weights ({reading.layer}, {plural(reading.each, 'weight')} at each place) that is "
        f"kept, by {reading.position}{'' if reading.shares.ndim == 1 else ': the brighter, the more'}.",
        f"The ticket ({which}{density(level.density)} kept), and beside it a random mask of the same layer density.",
    )
    if reading.shares.ndim == 1:
        drawn = {"Ticket": looks.arm("ticket"), RANDOM: CONTROLS["random"]}
        return [Plot("ticket-inputs", title, caption, vector_figure(shown, drawn))]
    channels = len(reading.shares)
    if channels > MAX_CHANNELS:
        shown = {name: shares.mean(0, keepdims=True) for name, shares in shown.items()}
        caption += f" Mean over {channels} channels."
    return [Plot("ticket-inputs", title, caption, image_figure(shown, "Weights kept (%)", 100))]


def study_inputs(study: ComparisonResult) -> list[Shown]:
    """The pictures of the sparsest arms of up to three families, of the first replicate, beside a random mask."""
    seed = study.seeds[0] if study.seeds else 0
    tickets = {}
    for arms in study.families.values():
        level = _last(arms[-1].replicates[0]) if arms[-1].replicates else None
        if level is not None:
            tickets[arms[-1].name] = level.ticket
    chosen = [list(tickets)[index] for index in pick(range(len(tickets)), MAX_MASKS - 1)]
    readings = {name: _try(tickets[name], study.input_shape, seed) for name in chosen}
    known = [(name, reading) for name, reading in readings.items() if reading is not None]
    if not known:
        return []
    name, reading = known[-1]
    note = f"Random mask: of the same layer density as {name}."
    if len(known) < len(tickets):
        note = f"{len(known)} of {len(tickets)} masks. {note}"
    return _several("study-inputs", readings, {RANDOM: reading.random}, study.replicates, note)


def overlap_inputs(study: OverlapResult) -> list[Shown]:
    """The pictures of both masks and of the random masks of their densities, of the first replicate."""
    tickets = {
        mask_result.mask: mask_result.tickets[0]
        for mask_result in study.accuracy
        if mask_result.tickets and mask_result.density < 1
    }
    readings = {name: _try(path, study.input_shape, 0) for name, path in tickets.items()}
    return _several("overlap-inputs", readings, {}, study.replicates, "")


def _last(levels: Sequence[LevelResult]) -> LevelResult | None:
    """The last level, if its ticket is there and prunes anything."""
    level = levels[-1] if levels else None
    there = level is not None and level.density < 1 and level.ticket is not None and Path(level.ticket).is_file()
    return level if there else None


def _try(file: str | None, shape: Sequence[int] | None, seed: int) -> Reading | None:
    try:
        return None if file is None or not Path(file).is_file() else read_ticket(Path(file), shape, seed)
    except TombolaError:
        return None


def _several(
    slug: str, readings: Mapping[str, Reading | None], more: Mapping[str, Shares], replicates: int, note: str
) -> list[Shown]:
    """Masks of several densities side by side, each relative to its layer's mean, over channels together."""
    known = {name: reading for name, reading in readings.items() if reading is not None and reading.shares.any()}
    if not known or all(reading.flat for reading in known.values()):
        return []
    first = next(iter(known.values()))
    if first.shares.ndim == 1:  # lines of several masks over hundreds of inputs would hide one another
        return []
    shares = {**{name: reading.shares for name, reading in known.items()}, **more}
    shown = {name: share.mean(0, keepdims=True) / share.mean() for name, share in shares.items()}
    channels = "over all channels together, " if len(first.shares) > 1 else ""
    position = "kernel place" if first.kernel else "pixel"
    caption = sentences(
        f"Weights of the first layer ({first.layer}) that a mask keeps, by {position}, {channels}over the layer's "
        "mean: the brighter, the more.",
        "Masks of the first replicate." if replicates > 1 else "",
        note,
    )
    return [Plot(slug, "What the masks look at", caption, image_figure(shown, "Kept / layer's mean", 1))]


def vector_figure(shown: Mapping[str, Shares], looks: Mapping[str, Look]) -> Figure:
    """Shares of kept weights over the inputs of a vector."""
    with style.styled():
        figure = style.new_figure(2.95)
        axes = figure.add_subplot()
        for name, shares in shown.items():
            line: dict[str, Any] = {"color": looks[name].colour, "linestyle": looks[name].dash}
            axes.step(range(len(shares)), 100 * shares, where="mid", linewidth=1.3, label=plain(name), **line)
        iterations_axis(axes, max(len(shares) for shares in shown.values()) - 1, "Input")
        axes.set_ylim(bottom=0)
        round_ticks(axes.yaxis)
        axes.set_ylabel("Weights kept (%)")
        legend_above(figure, axes)
    return figure


def image_figure(shown: Mapping[str, Shares], label: str, factor: float) -> Figure:
    """A picture for every mask: side by side, or where there are several channels a row of them for each mask.

    Args:
        shown: by name, (channels, height, width), all of one shape.
        label: of the colour bar.
        factor: what values are multiplied by for display.
    """
    channels, height, width = next(iter(shown.values())).shape
    columns = channels if channels > 1 else min(len(shown), 2)
    rows = len(shown) if channels > 1 else math.ceil(len(shown) / columns)
    panels = [(name, factor * image) for name, shares in shown.items() for image in shares]
    low, high = min(float(image.min()) for _, image in panels), max(float(image.max()) for _, image in panels)
    with style.styled():
        side = min(3.2 / columns, 1.7 * width / height)
        figure = style.new_figure(0.35 + rows * (side * height / width + 0.28))
        grid = figure.subplots(rows, columns, squeeze=False)
        drawn: Any = None
        for index, axes in enumerate(grid.flat):
            axes.set_axis_off()
            if index >= len(panels):
                continue
            name, image = panels[index]
            drawn = axes.imshow(image, cmap="viridis", vmin=low, vmax=high, interpolation="none")
            if channels == 1 or index % columns == 0:
                axes.set_title(plain(name, 24), fontsize=8, loc="left" if channels > 1 else "center", pad=3)
        bar = figure.colorbar(drawn, ax=grid, fraction=0.05, pad=0.03, shrink=0.86 if rows > 1 else 0.7)
        bar.outline.set_visible(False)
        round_ticks(bar.ax.yaxis)
        bar.set_label(label)
    return figure
