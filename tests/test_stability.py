"""Masks read during training: the distances between them, when they count as stable, and what a resumed run knows."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.levels.detector import Detector, Seen
from tombola.levels.stability import WatchMasks
from tombola.results.trial import MaskHistory

TEN = 10
"""Units of the masks here: a unit is a distance of a tenth."""


def mask_of(*flipped: int) -> dict[str, Tensor]:
    """Of ten units in two layers, kept but where flipped."""
    flat = torch.ones(TEN, dtype=torch.bool)
    flat[list(flipped)] = False
    return {"a": flat[:6].view(2, 3), "b": flat[6:]}


def loop_of(total: int, per_epoch: int = 1) -> Any:
    loop = SimpleNamespace(step=0, total=total, steps_per_epoch=per_epoch, stopped=None, device=torch.device("cpu"))
    loop.stop = lambda reason: setattr(loop, "stopped", reason)
    return loop


def watched(masks: list[dict[str, Tensor]], detector: Detector | None = None, **more: Any) -> tuple[Any, WatchMasks]:
    """A hook that has read these masks, one a step, until it stopped."""
    loop = loop_of(more.pop("total", 1000))
    hook = WatchMasks(lambda loop: masks[loop.step], unit="weights", density=0.5, detector=detector, **more)
    hook.on_start(loop)
    for _ in masks[1:]:
        loop.step += 1
        hook.after_step(loop)
        if loop.stopped:
            break
    return loop, hook


# -- the rules


def seen(*distances: float) -> Seen:
    return Seen(distances=distances)


def test_the_largest_of_the_last_distances_is_held_against_the_threshold() -> None:
    rule = Detector(window=3)
    assert [rule.signal(seen(*[0.5, 0.05, 0.02, 0.04][:n])) for n in range(5)] == [None, None, None, 0.5, 0.05]
    assert rule.threshold(0.3) == 0.1
    assert [rule.stable(value, 0.1) for value in (None, 0.05, 0.1, 0.2)] == [False, True, False, False]


def test_the_newest_mask_is_held_against_all_of_the_window() -> None:
    rule = Detector(window=3, compare="newest-vs-all")
    assert rule.signal(Seen(to_older=(0.1,))) is None
    assert rule.signal(Seen(to_older=(0.3, 0.1))) == 0.3
    assert [rule.stable(value, 0.1) for value in (None, 0.05, 0.1, 0.2)] == [False, True, True, False]


def test_displacements_are_held_against_the_first() -> None:
    rule = Detector(kind="displacement")
    assert rule.threshold(0.25) == 0.25
    assert Detector(0.5, kind="displacement").threshold(0.25) == 0.5
    grown = [0.0, 0.8, 1.2, 1.3]
    signals = [rule.signal(Seen(measured=grown[:n])) for n in range(1, 5)]
    assert signals[0] is None
    assert signals[1:] == pytest.approx([1.0, 0.5, 0.125])
    assert rule.signal(Seen(measured=[0.0, 0.0, 0.0])) is None
    with pytest.raises(TombolaError, match="an outcome here; give stable_distance"):
        rule.threshold(None)


@pytest.mark.parametrize(("kind", "published"), [("correlation", 0.11), ("gradient", 0.5)])
def test_likeness_to_the_dense_network_is_measured_anew_each_time(kind: str, published: float) -> None:
    rule = Detector(kind=kind)
    assert rule.threshold(None) == published
    assert rule.signal(Seen()) is None
    assert rule.signal(Seen(measured=[3.0, 0.1])) == 0.1
    assert rule.signal(Seen(measured=[0.1, float("nan")])) is None
    assert not rule.stable(published, published)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "masks"}, "unknown detector 'masks' .did you mean mask"),
        ({"compare": "all"}, "unknown stable_compare 'all'"),
        ({"distance": 0.0}, "stable_distance is 0.0; it must be a number above 0"),
        ({"distance": float("nan")}, "stable_distance is nan"),
        ({"window": 0}, "stable_window is 0, but with stable_compare consecutive it must lie between 1 and"),
        ({"window": 1, "compare": "newest-vs-all"}, "must lie between 2 and"),
    ],
)
def test_what_cannot_be_a_rule_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(TombolaError, match=says):
        Detector(**options)


# -- the hook


def test_a_mask_that_creeps_is_stable_by_one_rule_and_not_by_the_other() -> None:
    creeping = [mask_of(*range(n)) for n in range(6)]  # one more unit each time: 0.1 from the one before
    _, hook = watched(creeping, Detector(0.11, window=3))
    assert hook.history().emerged == 3
    _, hook = watched(creeping, Detector(0.11, window=3, compare="newest-vs-all"))
    assert hook.history().emerged is None
    assert hook.history().signal == pytest.approx((None, None, 0.2, 0.2, 0.2, 0.2))


def test_at_the_threshold_only_newest_against_all_is_stable() -> None:
    masks = [mask_of(), mask_of(0), mask_of(0), mask_of(0)]
    for compare, emerged in (("consecutive", 3), ("newest-vs-all", 2)):
        _, hook = watched(masks, Detector(0.1, window=3 if compare != "consecutive" else 2, compare=compare))
        assert hook.history().emerged == emerged


def test_training_stops_when_the_mask_is_stable() -> None:
    masks = [mask_of(0, 1, 2), mask_of(3), mask_of(3), mask_of(3), mask_of(4, 5, 6)]
    loop, hook = watched(masks, Detector(window=2))
    assert (loop.step, loop.stopped) == (3, "mask stable at iteration 3")
    assert hook.history() == MaskHistory(
        unit="weights",
        density=0.5,
        steps=(0, 1, 2, 3),
        distances=(None, 0.4, 0.0, 0.0),
        matrix=((), (0.4,), (0.4, 0.0), (0.4, 0.0, 0.0)),
        detector="mask",
        signal=(None, None, 0.4, 0.0),
        threshold=0.1,
        emerged=3,
        planned=1000,
    )
    loop, hook = watched(masks, Detector(window=2), stop=False)
    assert (loop.step, loop.stopped, hook.history().emerged) == (4, None, 3)
    loop, hook = watched(masks[:4], Detector(window=2), total=3)  # the end of training anyway
    assert (loop.stopped, hook.history().emerged) == (None, 3)


def test_masks_from_before_the_beginning_do_not_count() -> None:
    masks = [mask_of()] * 4 + [mask_of(0, 1)] + [mask_of(0, 1)] * 5
    for compare, window in (("consecutive", 2), ("newest-vs-all", 3)):
        for begin, emerged in ((0, 2), (3, 6), (4, 6), (7, 9), (8, None)):
            _, hook = watched(masks, Detector(window=window, compare=compare), begin=begin)
            assert hook.history().emerged == emerged, (compare, begin)


def test_nothing_is_found_at_the_start_and_what_is_no_mask_is_passed_over() -> None:
    rule = Detector(kind="correlation")
    loop, hook = watched([mask_of()] * 3, rule, measure=lambda loop, memory: 0.0)
    assert (loop.stopped, hook.history().signal) == (
        "correlations near the dense network's at iteration 1",
        (None, 0.0),
    )
    masks: list[Any] = [mask_of(), None, mask_of(0)]
    _, hook = watched(masks)
    assert (hook.history().steps, hook.history().distances) == ((0, 2), (None, 0.1))


def test_reads_that_lie_apart_are_not_judged() -> None:
    _, hook = watched([mask_of()] * 9, Detector(window=1), total=8, most=4)
    assert (hook.history().steps, hook.history().detector) == ((0, 2, 4, 6, 8), None)


def test_reading_draws_nothing_from_torch() -> None:
    torch.manual_seed(4)
    wanted = torch.rand(3)
    torch.manual_seed(4)
    hook = WatchMasks(lambda loop: {"a": torch.rand(9) > 0.5}, unit="weights", density=None)
    hook.on_start(loop_of(3))
    assert torch.equal(torch.rand(3), wanted)


def test_without_a_detector_nothing_stops() -> None:
    loop, hook = watched([mask_of()] * 8)
    history = hook.history()
    assert loop.stopped is None
    assert (history.detector, history.signal, history.threshold, history.emerged) == (None, None, None, None)


def test_the_matrix_holds_the_distances_of_all_pairs() -> None:
    generator = torch.Generator().manual_seed(3)
    masks = [{"a": torch.rand(7, 5, generator=generator) > 0.5, "b": torch.rand(3, generator=generator) > 0.5}] * 1
    masks += [{k: v ^ (torch.rand(v.shape, generator=generator) > 0.8) for k, v in masks[0].items()} for _ in range(6)]
    _, hook = watched(masks)
    flat = [torch.cat([layer.flatten() for layer in mask.values()]) for mask in masks]
    brute = [[float((a != b).double().mean()) for b in flat[:i]] for i, a in enumerate(flat)]
    history = hook.history()
    assert [list(row) for row in history.matrix or ()] == [pytest.approx(row) for row in brute]
    assert history.distances[1:] == pytest.approx([row[-1] for row in brute[1:]])


def test_too_many_masks_leave_the_last_ones_and_no_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = [mask_of(n % TEN) for n in range(9)]
    detector = Detector(window=4, compare="newest-vs-all")
    _, whole = watched(masks, detector)
    monkeypatch.setattr("tombola.levels.stability.MOST_BYTES", 2 * 5)  # ten units are two bytes
    _, some = watched(masks, detector)
    assert some.history() == MaskHistory(**{**_fields(whole.history()), "matrix": None})
    assert len(some.state_dict()["bits"]) == 4


def _fields(history: MaskHistory) -> dict[str, Any]:
    return {name: getattr(history, name) for name in history.__struct_fields__}


def test_masks_are_read_at_the_start_and_every_so_often() -> None:
    def read_at(total: int, start: int = 0, **more: Any) -> tuple[int, ...]:
        loop = loop_of(total, per_epoch=4)
        loop.step = start
        hook = WatchMasks(lambda loop: mask_of(), unit="weights", density=None, **more)
        hook.on_start(loop)
        while loop.step < total:
            loop.step += 1
            hook.after_step(loop)
        return hook.history().steps

    assert read_at(13) == (0, 4, 8, 12)
    assert read_at(13, start=6) == (6, 8, 12)
    assert read_at(13, every="5it") == (0, 5, 10)
    assert read_at(40, most=4) == (0, 12, 24, 36)
    assert read_at(16, most=4) == (0, 4, 8, 12, 16)


def test_a_resumed_hook_goes_on_in_the_middle_of_a_window() -> None:
    masks = [mask_of(*range(n % 3)) for n in range(12)]

    def measure(loop: Any, memory: dict[str, Tensor]) -> float:
        first = memory.setdefault("first", torch.tensor(7.0 + loop.step))
        return float(first) * loop.step

    def hook() -> WatchMasks:
        detector = Detector(1e-9, window=4, compare="newest-vs-all")
        return WatchMasks(
            lambda loop: masks[loop.step], unit="weights", density=0.5, detector=detector, measure=measure
        )

    def go_on(hook: WatchMasks, loop: Any, until: int) -> None:
        hook.on_start(loop)
        while loop.step < until:
            loop.step += 1
            hook.after_step(loop)

    whole, loop = hook(), loop_of(11)
    go_on(whole, loop, 11)
    killed, loop = hook(), loop_of(11)
    go_on(killed, loop, 6)
    file = io.BytesIO()
    torch.save(dict(killed.state_dict()), file)
    file.seek(0)
    resumed = hook()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    go_on(resumed, loop, 11)
    assert resumed.history() == whole.history()
    assert _equal(resumed.state_dict(), whole.state_dict())


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return all(map(_equal, a, b)) and len(a) == len(b) if isinstance(a, list) else bool(a == b)


def test_what_cannot_be_watched_is_refused() -> None:
    with pytest.raises(TombolaError, match="detector displacement needs a measure"):
        WatchMasks(lambda loop: {}, unit="weights", density=0.5, detector=Detector(kind="displacement"))
    hook = WatchMasks(lambda loop: {"a": torch.ones(3 + loop.step, dtype=torch.bool)}, unit="weights", density=None)
    loop = loop_of(9)
    hook.on_start(loop)
    loop.step = 1
    with pytest.raises(TombolaError, match="over 4 units was read after one over 3"):
        hook.after_step(loop)
