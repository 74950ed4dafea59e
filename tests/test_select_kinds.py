"""What `select` takes for numbers and scores, and the one line about everything else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import tombola as tb
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.select.select import select
from tombola.supermask import Coats

SCORES = {"a": torch.tensor([[4.0, 1.0], [3.0, 2.0]]), "b": torch.tensor([[0.0, 3.0], [1.0, 2.0]])}
HALF = Mask({"a": torch.tensor([[True, False], [True, False]]), "b": torch.tensor([[False, True], [False, True]])})

HALVES = [0.5, np.float64(0.5), np.float32(0.5), np.float16(0.5), torch.tensor(0.5), np.array(0.5)]
TWOS = [2, np.int64(2), np.uint8(2), np.int32(2), torch.tensor(2), np.array(2)]


@pytest.mark.parametrize("half", HALVES, ids=lambda value: type(value).__name__)
def test_a_density_may_be_any_kind_of_number(half: float) -> None:
    assert select(SCORES, density=half) == HALF
    assert select(SCORES, density={"a": half, "b": half}) == HALF
    assert select(SCORES, density=half, scope="global").kept == 4
    assert select(SCORES, density=half, pattern="1:2").kept == 4
    rule = tb.TopK(half)
    assert rule == tb.TopK(0.5)
    assert type(rule.density) is float
    assert Coats((half, 0.25)) == Coats((0.25, 0.5))


@pytest.mark.parametrize("two", TWOS, ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}")
def test_a_count_may_be_any_kind_of_whole_number(two: int) -> None:
    assert select(SCORES, counts={"a": two, "b": two}) == HALF
    only = {"a": SCORES["a"]}
    assert select(only, counts=two, scope="global") == Mask({"a": HALF["a"]})


WRONG = [True, np.bool_(True), torch.tensor(True), "0.5", 1 + 0j, np.nan, np.float32(1.5), torch.tensor([0.5]), 0, -0.5]


@pytest.mark.parametrize("wrong", [*WRONG, torch.empty((), device="meta")], ids=repr)
def test_what_is_no_density_is_one_line(wrong: float) -> None:
    for call in (lambda: select(SCORES, density=wrong), lambda: tb.TopK(wrong), lambda: Coats((wrong,))):
        with pytest.raises(TombolaError, match=r"must lie in \(0, 1\]"):
            call()


@pytest.mark.parametrize("wrong", [True, np.bool_(True), 2.0, np.float64(2), torch.tensor(2.0), "2", -1, 5], ids=repr)
def test_what_is_no_count_is_one_line(wrong: int) -> None:
    with pytest.raises(TombolaError, match=r"'a' is to keep .* units; allowed is a whole number from 0 to 4"):
        select(SCORES, counts={"a": wrong, "b": 2})


ODD: dict[str, tuple[object, str]] = {
    "sparse": (torch.eye(2).to_sparse(), "float32 in sparse_coo layout; .*to_dense"),
    "meta": (torch.empty(2, 2, device="meta"), "on the meta device"),
    "float8_e4m3fn": (torch.eye(2).to(torch.float8_e4m3fn), "float8_e4m3fn; give at least 16 bits"),
    "float8_e5m2": (torch.eye(2).to(torch.float8_e5m2), "float8_e5m2; give at least 16 bits"),
    "complex": (torch.eye(2, dtype=torch.complex64), "complex64; give a dense tensor of real numbers"),
    "bool": (torch.eye(2, dtype=torch.bool), "bool, a mask and no scores"),
    "numpy": (np.eye(2), "a ndarray; give a tensor"),
    "list": ([[1.0, 0.0]], "a list; give a tensor"),
}


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("pattern", ["element", "block:2", "inputs:2", "channel"])
@pytest.mark.parametrize("kind", ODD)
def test_scores_that_have_no_order_are_one_line_that_names_the_layer(kind: str, pattern: str, scope: str) -> None:
    odd, says = ODD[kind]
    with pytest.raises(TombolaError, match=rf"^the scores of 'odd' are {says}") as error:
        select({"fine": torch.ones(2, 2), "odd": odd}, density=0.5, pattern=pattern, scope=scope)  # type: ignore[dict-item]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.int64, torch.uint8])
@pytest.mark.parametrize("pattern", ["element", "channel", "1:2"])
def test_real_scores_of_every_dtype_are_selected(dtype: torch.dtype, pattern: str) -> None:
    scores: dict[str, Tensor] = {name: value.to(dtype) for name, value in SCORES.items()}
    assert select(scores, density=0.5, pattern=pattern) == select(SCORES, density=0.5, pattern=pattern)


def test_empty_layers_of_scores_select_nothing() -> None:
    with pytest.warns(UserWarning, match="nothing is kept of empty"):
        mask = select({"empty": torch.empty(0, 3), "a": SCORES["a"]}, density=0.5)
    assert mask["empty"].shape == (0, 3)
    assert mask.kept == 2
