"""select(): counts, scopes, patterns, candidates."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.select.patterns import NM, Block, Channel, Element, Inputs, Pattern, parse_pattern
from tombola.select.select import BarredWeightsWarning, EmptyLayerWarning, select
from tombola.supermask.rules import Coats, TopK


def rows(mask: Mask, name: str = "w") -> Any:
    return mask[name].int().tolist()


def one(values: object) -> dict[str, Tensor]:
    return {"w": torch.tensor(values)}


# ---- counts and scopes


def test_by_hand() -> None:
    assert rows(select(one([0.1, 0.4, 0.3, 0.2]), density=0.5)) == [0, 1, 1, 0]
    assert rows(select(one([-3.0, -1.0, -2.0]), counts={"w": 1})) == [0, 1, 0]


@settings(max_examples=60)
@given(n=st.integers(1, 40), tenths=st.integers(1, 20))
def test_exactly_round_half_to_even(n: int, tenths: int) -> None:
    density = tenths / 20
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyLayerWarning)
        kept = select({"w": torch.rand(n)}, density=density).kept
    assert kept == round(density * n)
    assert abs(Fraction(kept) - Fraction(tenths, 20) * n) <= Fraction(1, 2) + Fraction(1, 10**9)


def test_layer_scope_holds_every_layer_and_global_the_whole() -> None:
    scores = {"a": torch.tensor([4.0, 3.0]), "b": torch.tensor([2.0, 1.0, 0.5, 0.25])}
    assert select(scores, density=0.5).counts() == {"a": (1, 2), "b": (2, 4)}
    assert select(scores, density=0.5, scope="global").counts() == {"a": (2, 2), "b": (1, 4)}
    assert select(scores, density={"a": 1.0, "b": 0.25}).counts() == {"a": (2, 2), "b": (1, 4)}
    assert select(scores, counts=5, scope="global").kept == 5
    assert select(scores, counts={"b": 3, "a": 1}).counts() == {"a": (1, 2), "b": (3, 4)}


def test_global_ties_go_to_the_earlier_layer() -> None:
    scores = {"b": torch.zeros(2), "a": torch.zeros(2, dtype=torch.float16)}
    mask = select(scores, counts=3, scope="global")
    assert list(mask) == ["b", "a"]
    assert mask["b"].tolist() == [True, True]
    assert mask["a"].tolist() == [True, False]


def test_empty_layer_warns_by_name() -> None:
    scores = {"big": torch.ones(4), "small": torch.zeros(4)}
    with pytest.warns(EmptyLayerWarning, match="nothing is kept of small"):
        assert select(scores, density=0.5, scope="global").empty_layers() == ["small"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0}, r"density is 0; it must lie in \(0, 1\]"),
        ({"density": 1.5}, "density is 1.5"),
        ({"density": math.nan}, "density is nan"),
        ({"density": {"w": 2.0}}, "density of 'w' is 2.0"),
        ({"density": {"v": 0.5}}, "no layer with scores is called 'v'"),
        ({"density": {}}, "given for w"),
        ({"density": {"w": 0.5}, "scope": "global"}, "goes with scope 'layer'"),
        ({"counts": 2}, "goes with scope 'global'"),
        ({"counts": 5, "scope": "global"}, "from 0 to 4"),
        ({"counts": {"w": -1}}, "from 0 to 4"),
        ({}, "either a density"),
        ({"density": 0.5, "counts": {"w": 1}}, "either a density"),
        ({"density": 0.5, "scope": "net"}, "unknown scope 'net'; allowed: layer, global"),
        ({"density": 0.5, "pattern": "rows"}, "unknown pattern 'rows'; allowed: element"),
        ({"density": 0.4, "pattern": "2:4"}, "fixes the density at 0.5"),
        ({"counts": {"w": 2}, "pattern": "2:4"}, "fixes the density at 0.5"),
        ({"scope": "global", "pattern": "2:4"}, "use scope 'layer'"),
    ],
)
def test_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(TombolaError, match=message):
        select({"w": torch.rand(4)}, **options)  # type: ignore[arg-type]


def test_nan_names_the_layer() -> None:
    for pattern, density in (("element", 0.5), ("channel", 0.5), ("2:4", None)):
        with pytest.raises(TombolaError, match="1 of 4 scores of 'w' are NaN"):
            select(one([1.0, math.nan, 2.0, 3.0]), density=density, pattern=pattern)
    with pytest.raises(TombolaError, match="no scores"):
        select({}, density=0.5)


# ---- candidates


def test_candidates_nest() -> None:
    scores = one([5.0, -math.inf, 3.0, -math.inf])
    kept = Mask({"w": torch.tensor([0, 1, 1, 1])})
    assert rows(select(scores, counts={"w": 1}, candidates=kept)) == [0, 0, 1, 0]
    with pytest.raises(TombolaError, match="only 1 of 3 have a score above -inf"):
        select(scores, counts={"w": 2}, candidates=kept)
    with pytest.raises(TombolaError, match="only 3 are candidates"):
        select(scores, counts={"w": 4}, candidates=kept)
    with pytest.raises(TombolaError, match="must be equal"):
        select(scores, counts={"w": 1}, candidates=Mask({"w": torch.ones(3)}))
    with pytest.raises(TombolaError, match="no mask for w"):
        select(scores, counts={"w": 1}, candidates=Mask({"v": torch.ones(4)}))


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("pattern", ["element", "block:2", "inputs:2", "channel"])
def test_masks_nest_over_levels(scope: str, pattern: str) -> None:
    draw = torch.Generator().manual_seed(0)
    mask = None
    for density in (0.8, 0.5, 0.3):
        scores = {"a": torch.randn(10, 6, generator=draw).abs(), "b": torch.randn(9, 4, generator=draw).abs()}
        smaller = select(scores, density=density, scope=scope, pattern=pattern, candidates=mask)
        units = [parse_pattern(pattern).units(s.shape) for s in scores.values()]  # type: ignore[union-attr]
        kept = [int(parse_pattern(pattern).whole(m).sum()) for m in smaller.values()]  # type: ignore[union-attr]
        if scope == "layer":
            assert kept == [round(density * u) for u in units]
        else:
            assert sum(kept) == round(density * sum(units))
        assert mask is None or smaller.nested_in(mask)
        mask = smaller


# ---- patterns


@pytest.mark.parametrize(
    ("text", "pattern"),
    [("element", Element()), ("block:4", Block(4)), ("inputs:4", Inputs(4)), ("2:4", NM(2, 4)), ("channel", Channel())],
)
def test_parse_pattern_and_back(text: str, pattern: Pattern) -> None:
    assert parse_pattern(text) == pattern
    assert str(pattern) == text
    assert parse_pattern(pattern) is pattern


@pytest.mark.parametrize("text", ["block", "block:0", "inputs", "inputs:0", "0:4", "5:4", "4", "channel:2", ""])
def test_bad_patterns(text: str) -> None:
    with pytest.raises(TombolaError):
        parse_pattern(text)


def test_block_takes_the_mean_of_sizes_and_a_ragged_last_block() -> None:
    scores = one([[1.0, 0.0], [-3.0, 1.0], [1.5, 5.0]])  # blocks: (2, .5) and the ragged (1.5, 5)
    assert Block(2).units(torch.Size((3, 2))) == 4
    assert Block(2).score(scores["w"]).tolist() == [2.0, 0.5, 1.5, 5.0]
    mask = select(scores, density=0.5, pattern="block:2")
    assert rows(mask) == [[1, 0], [1, 0], [0, 1]]
    assert mask.density == 0.5
    assert rows(select(scores, counts={"w": 1}, pattern="block:2", signed=True)) == [[0, 0], [0, 0], [0, 1]]
    assert Block(2).score(scores["w"], signed=True).tolist() == [-1.0, 0.5, 1.5, 5.0]


def test_inputs_are_units_of_a_row_with_a_ragged_last_one() -> None:
    scores = one([[1.0, -3.0, 1.5], [0.0, 1.0, 5.0]])  # units: (2, the ragged 1.5), (.5, 5)
    assert Inputs(2).units(torch.Size((2, 3))) == 4
    assert Inputs(2).score(scores["w"]).tolist() == [2.0, 1.5, 0.5, 5.0]
    mask = select(scores, density=0.5, pattern="inputs:2")
    assert rows(mask) == [[1, 1, 0], [0, 0, 1]]
    assert mask.density == 0.5
    assert Inputs(2).score(scores["w"], signed=True).tolist() == [-1.0, 1.5, 0.5, 5.0]


def test_inputs_of_a_convolution_are_channels_at_one_kernel_position() -> None:
    weight = torch.zeros(1, 5, 1, 2)
    weight[0, 2:4, 0, 1] = 1.0  # the second unit of two channels, at the second position
    scores = {"w": weight}
    assert Inputs(2).units(weight.shape) == 6
    assert Inputs(2).score(weight).tolist() == [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    kept = select(scores, counts={"w": 2}, pattern="inputs:2")[
        "w"
    ]  # in ties the lower index: position 0, channels 0, 1
    assert kept.nonzero()[:, 1:].tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 1], [3, 0, 1]]
    assert Inputs(2).whole(kept).tolist() == [True, False, False, True, False, False]
    ragged = select({"w": torch.ones(2, 5, 3)}, density=1.0, pattern="inputs:4")["w"]
    assert ragged.all()
    assert select({"w": torch.ones(3)}, counts={"w": 2}, pattern="inputs:4")["w"].tolist() == [True, True, False]


def test_channel_and_infinities_in_units() -> None:
    inf = math.inf
    scores = one([[1.0, 1.0], [-inf, -inf], [-inf, 4.0], [0.0, 0.0]])
    assert Channel().score(scores["w"]).tolist() == [1.0, -inf, 4.0, 0.0]
    with pytest.warns(BarredWeightsWarning, match="w 1 of 6"):
        mask = select(scores, density=0.75, pattern="channel")
    assert rows(mask) == [[1, 1], [0, 0], [1, 1], [1, 1]]
    filters = {"w": torch.arange(12.0).view(3, 2, 1, 2)}
    assert select(filters, counts={"w": 1}, pattern="channel")["w"][2].all()
    assert rows(select(one([3.0, 1.0, 2.0]), counts={"w": 2}, pattern="channel")) == [1, 0, 1]


def test_n_of_m_with_a_tail_and_ties() -> None:
    scores = one([[1.0, 4.0, 3.0, 2.0, 9.0, 8.0], [0.0, 0.0, 0.0, 0.0, 1.0, 2.0]])
    mask = select(scores, pattern="2:4")
    assert rows(mask) == [[0, 1, 1, 0, 1, 0], [1, 1, 0, 0, 0, 1]]  # the tail of 2 keeps round(2 * 2 / 4) = 1
    assert select(scores, density=0.5, pattern=NM(2, 4)) == mask
    # a tail of 2 under 1:4 keeps round(0.5) = 0
    assert select(scores, pattern="1:4")["w"].sum(1).tolist() == [1, 1]


@settings(max_examples=60)
@given(
    n=st.integers(1, 20),
    more=st.integers(0, 3),
    inputs=st.integers(1, 45),
    seed=st.integers(0, 2**31),
    barred=st.booleans(),
)
def test_n_of_m_equals_a_sorted_reference(n: int, more: int, inputs: int, seed: int, barred: bool) -> None:
    m = n + more
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randint(-2, 3, (3, inputs), generator=draw).float()
    allowed = torch.rand(3, inputs, generator=draw) > 0.4 if barred else None
    expected = torch.zeros(3, inputs, dtype=torch.bool)
    for row in range(3):
        for start in range(0, inputs, m):
            group = range(start, min(start + m, inputs))
            size = n if len(group) == m else round(n * len(group) / m)
            open_ = [i for i in group if allowed is None or bool(allowed[row, i])]
            for i in sorted(open_, key=lambda i: (-float(scores[row, i]), i))[:size]:
                expected[row, i] = True
    assert torch.equal(NM(n, m).keep(scores, allowed), expected)


# ---- what is given


@pytest.mark.parametrize("density", [np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5)])
def test_densities_of_numpy_and_torch(density: Any) -> None:
    scores = one([0.1, 0.4, 0.3, 0.2])
    assert rows(select(scores, density=density)) == [0, 1, 1, 0]
    assert rows(select(scores, density={"w": density})) == [0, 1, 1, 0]
    assert rows(select({"w": scores["w"][None]}, density=density, pattern="2:4")) == [[0, 1, 1, 0]]
    assert type(TopK(density=density).density) is float
    assert all(type(part) is float for part in Coats(densities=(density,)).densities)


@pytest.mark.parametrize("count", [np.int64(1), np.uint8(1), np.array(1), torch.tensor(1)])
def test_counts_of_numpy_and_torch(count: Any) -> None:
    assert rows(select(one([0.1, 0.4, 0.3, 0.2]), counts={"w": count})) == [0, 1, 0, 0]
    assert rows(select(one([0.1, 0.4, 0.3, 0.2]), counts=count, scope="global")) == [0, 1, 0, 0]


@pytest.mark.parametrize("density", [np.float32("nan"), np.array([0.5]), torch.tensor([0.5]), np.True_, "0.5", 1j])
def test_what_is_no_density(density: Any) -> None:
    for asked in (density, {"w": density}):
        with pytest.raises(TombolaError, match=r"must lie in \(0, 1\]"):
            select(one([0.1, 0.4]), density=asked)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (lambda: torch.rand(4, 5).to_sparse(), "float32 in sparse_coo layout; give a dense tensor"),
        (lambda: torch.rand(4, 5).to_mkldnn(), "mkldnn layout; give a dense tensor"),
        (lambda: torch.rand(4, 5, device="meta"), "meta device"),
        (
            lambda: torch.rand(4, 5).to(torch.float8_e4m3fn),
            r"float8_e4m3fn; give at .* \(scores.float\(\)\)",
        ),
        (lambda: torch.rand(4, 5).to(torch.float8_e5m2), "float8_e5m2; give at least 16 bits"),
        (lambda: torch.rand(4, 5, dtype=torch.complex64), "complex64; give a dense tensor of real numbers"),
        (lambda: torch.quantize_per_tensor(torch.rand(4, 5), 0.1, 0, torch.qint8), "qint8; give a dense tensor"),
        (lambda: torch.nested.nested_tensor([torch.rand(3), torch.rand(2)]), "nested tensor"),
        (lambda: np.ones((4, 5)), "ndarray; give a tensor"),
        (lambda: [[0.5, 0.25]], "list; give a tensor"),
        (lambda: None, "NoneType; give a tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_is_no_score(scores: Any, said: str) -> None:
    for scope in ("layer", "global"):
        with pytest.raises(TombolaError, match=rf"scores of 'w' are .*{said}") as found:
            select({"v": torch.rand(2, 3), "w": scores()}, density=0.5, scope=scope)
        assert "\n" not in str(found.value)


@pytest.mark.parametrize("scores", [torch.rand(2, 3), [torch.rand(2, 3)], nn.Linear(2, 3)])
def test_scores_without_names(scores: Any) -> None:
    with pytest.raises(TombolaError, match=f"scores are a {type(scores).__name__}; give a mapping"):
        select(scores, density=0.5)
