"""What is prunable, what is left out and why, and the denominator of a density in words."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from tombola.coverage import LeftOutWarning, coverage, density_in_words, percent, warn_of_left_out
from tombola.mask import prunable


class Reader(nn.Module):
    """Embedding + LSTM + Linear: few of its parameters are prunable by default."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.lstm = nn.LSTM(8, 6, num_layers=2, batch_first=True)
        self.own = nn.Parameter(torch.randn(6, 8))
        self.out = nn.Linear(8, 10, bias=False)
        if tied:
            self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.lstm(self.embedding(x))[0][:, -1]
        return self.out(hidden @ self.own)


def why(model: nn.Module, **more: Any) -> dict[str, str]:
    return {part.name: part.why for part in coverage(model, **more).left_out}


def test_every_kind_of_left_out_parameter_is_named() -> None:
    found = coverage(Reader())
    lstm = 4 * 6 * (8 + 6) + 4 * 6 * (6 + 6)
    assert (found.total, found.prunable) == (80 + lstm + 4 * 4 * 6 + 48 + 80, 80)
    assert {part.name: part.why for part in found.left_out} == {
        "embedding.weight": "embedding",
        "lstm.weight_ih_l0": "recurrent",
        "lstm.weight_hh_l0": "recurrent",
        "lstm.weight_ih_l1": "recurrent",
        "lstm.weight_hh_l1": "recurrent",
        "own": "parameter of Reader",
    }
    assert found.left_out_share == (80 + lstm + 48) / found.total
    assert sum(part.size for part in found.left_out) == 80 + lstm + 48
    tied = coverage(Reader(tied=True))
    assert tied.total == found.total - 80  # shared parameters count once
    assert tied.prunable == 0
    assert why(Reader(tied=True))["embedding.weight"] == "embedding shared with another layer"


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.GRU(3, 4), {"weight_ih_l0": "recurrent", "weight_hh_l0": "recurrent"}),
        (nn.LSTMCell(3, 4), {"weight_ih": "recurrent", "weight_hh": "recurrent"}),
        (nn.Bilinear(3, 4, 5), {"weight": "bilinear"}),
        (nn.EmbeddingBag(3, 4), {"weight": "embedding"}),
        (nn.LayerNorm((3, 4)), {"weight": "parameter of LayerNorm", "bias": "parameter of LayerNorm"}),
        (nn.Linear(3, 4), {}),
        (nn.BatchNorm2d(4), {}),
        (nn.MultiheadAttention(4, 2), {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_reasons(module: nn.Module, expected: dict[str, str]) -> None:
    assert why(module) == expected


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parts_of_a_normalised_weight_are_not_offered() -> None:
    for model in (
        parametrizations.weight_norm(nn.Linear(3, 4)),
        weight_norm(nn.Linear(3, 4)),
        nn.utils.spectral_norm(nn.Linear(3, 4)),
    ):
        found = coverage(model)
        assert found.left_out
        assert all("remove the parametrisation" in part.why and part.pattern is None for part in found.left_out)
        assert "include" not in str(found)


def test_the_patterns_include_what_they_are_given_for() -> None:
    model = Reader()
    patterns = [part.pattern for part in coverage(model).left_out if part.pattern is not None]
    left = {part.name for part in coverage(model).left_out}
    widened = prunable(model, include=patterns)
    assert left <= widened.keys()
    assert {name for name in widened if name.startswith("lstm.bias")} == set()
    assert coverage(model, include=patterns).left_out == ()
    assert coverage(model, include=patterns).prunable == sum(p.numel() for p in widened.values())


def test_what_is_excluded_on_purpose_is_not_told() -> None:
    assert "own" not in why(Reader(), exclude=["own", "out.*"])
    assert "out.weight" not in why(Reader(), exclude=["own", "out.*"])


def test_a_warning_only_where_much_is_left_out() -> None:
    with pytest.warns(LeftOutWarning, match=r"^80 of 928 parameters are prunable \(8.6%\)"):
        warn_of_left_out(coverage(Reader()))
    assert str(coverage(Reader())) == (
        "80 of 928 parameters are prunable (8.6%); left out are lstm.weight_* (recurrent, 624), "
        "embedding.weight (embedding, 80), own (parameter of Reader, 48): 81.0% of all; "
        "to prune them too, add them to include: 'lstm.weight_*', 'embedding.weight', 'own'"
    )
    many = nn.ModuleDict({f"e{i}": nn.Embedding(2, 2) for i in range(6)})
    assert str(coverage(many)).count("and 2 more") == 2
    small = nn.Sequential(nn.Linear(100, 100), nn.Embedding(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_left_out(coverage(small))
        warn_of_left_out(coverage(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))))


def test_density_in_words() -> None:
    text = "19.6% of the 51 prunable weights, which are 0.7% of all 7,266 parameters"
    assert density_in_words(10, 51, 7266) == text
    assert density_in_words(10, 51, None) == "19.6% of the 51 prunable weights"
    assert density_in_words(51, 51, 51) == "100.0% of the 51 prunable weights, which are all of the parameters"
    assert [percent(*pair) for pair in ((1, 3), (1, 2500), (0, 5), (0, 0))] == ["33.3%", "0.04%", "0.0%", "0.0%"]
