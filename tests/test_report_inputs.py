"""What a ticket looks at: kept first-layer weights by input place, beside a random mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tombola as tb
from tombola.mask import Mask
from tombola.report.inputs import by_position, image_figure, input_plots, read_ticket, vector_figure
from tombola.report.looks import CONTROLS, page_looks, series_look
from tombola.report.plot import Plot, Remark
from tombola.report.read import Run, read_run
from tombola.study.arms import random_like


def test_shares_by_hand() -> None:
    keep = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
    assert by_position(keep, (4,)).tolist() == [1, 0.5, 0.5, 0]  # type: ignore[union-attr]
    assert by_position(keep, (2, 2)).tolist() == [[[1, 0.5], [0.5, 0]]]  # type: ignore[union-attr]
    assert by_position(keep, (1, 2, 2)).tolist() == [[[1, 0.5], [0.5, 0]]]  # type: ignore[union-attr]
    assert by_position(keep, (2, 1, 2)).tolist() == [[[1, 0.5]], [[0.5, 0]]]  # type: ignore[union-attr]
    assert by_position(keep, (5,)) is None


def test_convolutions_by_input_channel_and_kernel_place() -> None:
    keep = torch.zeros(4, 3, 2, 2, dtype=torch.bool)
    keep[:, 1, 0, 1] = True
    keep[0, 2, 1, 1] = True
    found = by_position(keep, (3, 8, 8))
    assert found is not None
    assert found.shape == (3, 2, 2)
    assert (found[1, 0, 1], found[2, 1, 1], found.sum()) == (1, 0.25, 1.25)
    assert by_position(keep, (1, 8, 8)) is None, "not the first layer"
    assert by_position(keep[..., 0], (3, 8)) is not None, "one dimension"
    assert by_position(keep, (3, 8)) is None


def test_a_random_mask_keeps_as_many_and_is_drawn_from_its_seed() -> None:
    mask = Mask({"w": torch.rand(30, 20) < 0.3})
    one, two, other = (random_like(mask, "element", seed) for seed in (1, 1, 2))
    assert one.kept == mask.kept
    assert torch.equal(one["w"], two["w"])
    assert not torch.equal(one["w"], other["w"])
    assert random_like(Mask({"w": torch.ones(4, 8).bool()}), "2:4", 0).kept == 16


def data(shape: tuple[int, ...]) -> Any:
    draw = torch.Generator().manual_seed(0)
    splits = [(torch.randn(n, *shape, generator=draw), torch.arange(n) % 2) for n in (40, 20, 20)]
    return tuple(splits)


class Tiny(torch.nn.Module):
    def __init__(self, first: torch.nn.Module, wide: int) -> None:
        super().__init__()
        self.first, self.last = first, torch.nn.Linear(wide, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).flatten(1))  # type: ignore[no-any-return]


def found(tmp_path: Path, first: torch.nn.Module, wide: int, shape: tuple[int, ...], **more: Any) -> Run:
    """A finished search on a network of the user's own."""
    torch.manual_seed(0)
    settings = {"density": 0.3, "rounds": 1, **more}
    recipe = {"length": "2it", "batch_size": 20, "optimizer": "sgd", "lr": 0.1}
    tb.find(Tiny(first, wide), data(shape), settings, recipe=recipe, out=tmp_path)
    return read_run(next(tmp_path.glob("*/run.json")).parent)


def only(run: Run) -> Plot | Remark | None:
    shown = input_plots(run, page_looks([run])[0])
    assert len(shown) <= 1
    return shown[0] if shown else None


def test_pictures_of_a_users_own_networks(tmp_path: Path) -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 6))
    plot = only(found(tmp_path / "fc", flat, 6, (1, 3, 4)))
    assert isinstance(plot, Plot)
    assert "first.1.weight, 6 weights at each place" in plot.caption
    assert "by pixel: the brighter" in plot.caption
    images = [axes.images[0].get_array() for axes in plot.figure.axes if axes.images]
    assert [image.shape for image in images] == [(3, 4), (3, 4)]
    kept = [round(float(image.sum()) * 6 / 100) for image in images]
    assert kept[0] == kept[1], "the random mask keeps as many"

    conv = torch.nn.Conv2d(2, 5, 3)
    plot = only(found(tmp_path / "conv", conv, 5 * 4, (2, 4, 4)))
    assert isinstance(plot, Plot)
    assert "by input channel and kernel place" in plot.caption
    assert sum(bool(axes.images) for axes in plot.figure.axes) == 4

    plot = only(found(tmp_path / "vector", torch.nn.Linear(7, 5), 5, (7,)))
    assert isinstance(plot, Plot)
    assert "kept, by input." in plot.caption
    assert {line.get_label() for line in plot.figure.axes[0].lines} == {"Ticket", "Random mask"}


def test_no_picture_where_the_first_layer_is_whole_or_left_out(tmp_path: Path) -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 6))
    assert only(found(tmp_path / "out", flat, 6, (1, 3, 4), exclude=("first.*",))) is None


def test_a_file_that_is_no_ticket_is_said(tmp_path: Path) -> None:
    run = found(tmp_path, torch.nn.Linear(7, 5), 5, (7,))
    assert run.find is not None
    level = run.find.replicates[0].arms["ticket"][-1]
    assert level.ticket is not None
    Path(level.ticket).write_bytes(b"no ticket")
    shown = only(run)
    assert isinstance(shown, Remark)
    assert "cannot be read" in shown.text
    Path(level.ticket).unlink()
    assert only(run) is None


def test_a_matrix_that_lies_turned_is_read_upright(tmp_path: Path) -> None:
    torch.manual_seed(0)
    upright = torch.rand(6, 4) > 0.5
    readings = []
    for name, turned in (("a", False), ("b", True)):
        weight = torch.where(upright, 1.0, 0.0)
        method = {"name": "prune", "pattern": "block:3", **({"transposed": ["w"]} if turned else {})}
        ticket = tb.pack({"w": weight.t().contiguous() if turned else weight}, {"method": method})
        ticket.save(tmp_path / f"{name}.ticket")
        readings.append(read_ticket(tmp_path / f"{name}.ticket", (4,), 0))
    plain, other = readings
    assert plain is not None
    assert other is not None
    assert np.array_equal(plain.shares, other.shares)
    assert (plain.each, other.each) == (6, 6)
    assert plain.random.shape == other.random.shape == (4,)


def test_reading_is_the_same_every_time(tmp_path: Path) -> None:
    run = found(tmp_path, torch.nn.Linear(7, 5), 5, (7,))
    assert run.find is not None
    path = run.find.replicates[0].arms["ticket"][-1].ticket
    assert path is not None
    readings = [read_ticket(Path(path), (7,), 3) for _ in range(2)]
    assert readings[0] is not None
    assert readings[1] is not None
    assert np.array_equal(readings[0].random, readings[1].random)
    assert read_ticket(Path(path), None, 3) is None, "the shape of a user's own data is not known from the ticket"


@pytest.mark.parametrize("channels", [1, 3])
def test_image_figures_share_one_scale(channels: int) -> None:
    draw = np.random.default_rng(0)
    shown = {name: draw.random((channels, 5, 4)).astype(np.float32) for name in ("A", "B", "C")}
    figure = image_figure(shown, "label", 100)
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == 3 * channels
    assert len({image.get_clim() for image in images}) == 1
    low, high = images[0].get_clim()
    assert low == pytest.approx(100 * min(float(s.min()) for s in shown.values()))
    assert high == pytest.approx(100 * max(float(s.max()) for s in shown.values()))


def test_vector_figures_start_at_zero() -> None:
    shares = np.array([0.5, 0.25, 1.0], dtype=np.float32)
    figure = vector_figure({"Ticket": shares}, {"Ticket": series_look(0), "Random mask": CONTROLS["random"]})
    assert figure.axes[0].get_ylim()[0] == 0
    assert list(figure.axes[0].lines[0].get_ydata()) == [50, 25, 100]
