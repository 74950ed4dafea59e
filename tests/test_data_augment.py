"""Augmentation: values written out on 3x3 images."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola.data.augment import augment_batch, draws_needed
from tombola.data.config import Augment
from tombola.errors import TombolaError

IMAGE = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]])


def drawn(**columns: float) -> torch.Tensor:
    """One row of draws with the named columns set, the others in the middle."""
    places = {
        "flip": 0,
        "top": 1,
        "left": 2,
        "right": 3,
        "down": 4,
        "turn": 5,
        "area": 6,
        "aspect": 7,
        "x": 8,
        "y": 9,
    }
    row = torch.full((1, 10), 0.5)
    for name, value in columns.items():
        row[0, places[name]] = value
    return row


def test_flip_mirrors_the_rows_below_one_half() -> None:
    flipped = augment_batch(IMAGE, drawn(flip=0.49), Augment(flip=True))
    assert flipped.tolist() == [[[[3.0, 2.0, 1.0], [6.0, 5.0, 4.0], [9.0, 8.0, 7.0]]]]
    assert torch.equal(augment_batch(IMAGE, drawn(flip=0.5), Augment(flip=True)), IMAGE)


def test_crop_takes_the_drawn_window_of_the_padded_image() -> None:
    # 3 windows each way: 0 and 0.99 are the first and the last, 0.5 the middle one.
    crop = Augment(crop=1)
    fill = torch.tensor([-1.0])
    first = augment_batch(IMAGE, drawn(top=0.0, left=0.0), crop, fill)
    assert first.tolist() == [[[[-1.0, -1.0, -1.0], [-1.0, 1.0, 2.0], [-1.0, 4.0, 5.0]]]]
    last_row = augment_batch(IMAGE, drawn(top=0.99, left=0.5), crop, fill)
    assert last_row.tolist() == [[[[4.0, 5.0, 6.0], [7.0, 8.0, 9.0], [-1.0, -1.0, -1.0]]]]
    assert torch.equal(augment_batch(IMAGE, drawn(), crop, fill), IMAGE)


def test_flip_comes_before_crop() -> None:
    out = augment_batch(IMAGE, drawn(flip=0.0, top=0.5, left=0.0), Augment(flip=True, crop=1))
    assert out.tolist() == [[[[0.0, 3.0, 2.0], [0.0, 6.0, 5.0], [0.0, 9.0, 8.0]]]]


def test_translation_by_a_third_is_one_pixel() -> None:
    out = augment_batch(IMAGE, drawn(right=1.0), Augment(translate=1 / 3), torch.tensor([-1.0]))
    torch.testing.assert_close(out, torch.tensor([[[[-1.0, 1.0, 2.0], [-1.0, 4.0, 5.0], [-1.0, 7.0, 8.0]]]]))


def test_quarter_turn() -> None:
    out = augment_batch(IMAGE, drawn(turn=1.0), Augment(rotate=90.0))
    torch.testing.assert_close(out, torch.rot90(IMAGE, 1, (2, 3)))


def test_a_turn_is_rigid_on_images_that_are_not_square() -> None:
    wide = torch.zeros(1, 1, 5, 9)
    wide[0, 0, 2, 4:7] = 1.0  # three pixels to the right of the centre
    out = augment_batch(wide, drawn(turn=1.0), Augment(rotate=90.0))
    expected = torch.zeros(1, 1, 5, 9)
    expected[0, 0, 0:3, 4] = 1.0  # now above it
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("augment", [Augment(rotate=30.0), Augment(translate=0.2), Augment(rotate=5.0, translate=0.1)])
def test_the_middle_draw_changes_nothing(augment: Augment) -> None:
    torch.testing.assert_close(augment_batch(IMAGE, drawn(), augment, torch.tensor([0.3])), IMAGE)


def test_zoom_on_the_whole_image_is_the_identity_and_on_a_ninth_the_centre_pixel() -> None:
    whole = drawn(area=1.0)
    torch.testing.assert_close(augment_batch(IMAGE, whole, Augment(zoom=0.1)), IMAGE)
    out = augment_batch(IMAGE, drawn(area=0.0), Augment(zoom=1 / 9))
    assert out[0, 0, 1, 1] == 5.0
    torch.testing.assert_close(out[0, 0, 1], torch.tensor([5 - 1 / 3, 5.0, 5 + 1 / 3]))


@given(st.integers(0, 2**31), st.sampled_from([Augment(flip=True, crop=2), Augment(rotate=20.0, zoom=0.5)]))
def test_an_image_changes_by_its_own_draws_alone(seed: int, augment: Augment) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(5, 3, 6, 7, generator=generator)
    before = x.clone()
    draws = torch.rand(5, 10, generator=generator)
    together = augment_batch(x, draws, augment)
    alone = torch.cat([augment_batch(x[i : i + 1], draws[i : i + 1], augment) for i in range(5)])
    torch.testing.assert_close(together, alone)
    assert torch.equal(x, before)


def test_draws_needed() -> None:
    counts = [draws_needed(a) for a in (Augment(), Augment(flip=True), Augment(crop=1), Augment(zoom=0.5))]
    assert counts == [0, 1, 3, 10]


def test_bytes_that_only_move_stay_bytes() -> None:
    draws = torch.cat([drawn(flip=0.2, top=0.1, left=0.9), drawn(flip=0.7, top=0.9)])
    x = IMAGE.byte().expand(2, 1, 3, 3)
    found = augment_batch(x, draws, Augment(flip=True, crop=1))
    assert found.dtype == torch.uint8
    assert torch.equal(found.float(), augment_batch(x.float(), draws, Augment(flip=True, crop=1)))


def test_bytes_and_vectors_are_refused() -> None:
    for x in (torch.zeros(1, 1, 3, 3, dtype=torch.uint8), torch.zeros(1, 9)):
        with pytest.raises(TombolaError, match="needs float images"):
            augment_batch(x, drawn(), Augment(flip=True, rotate=1.0))


@pytest.mark.parametrize("bad", [{"crop": -1}, {"translate": 1.5}, {"rotate": 200.0}, {"zoom": -0.1}])
def test_settings_out_of_range(bad: dict[str, float]) -> None:
    with pytest.raises(TombolaError, match="must lie in"):
        Augment(**bad)  # type: ignore[arg-type]
