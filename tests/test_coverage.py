"""What is prunable, what is left out and why, and the denominator of a density in words."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

import tombola
from tombola.coverage import LeftOutWarning, coverage, density_in_words, warn_of_left_out
from tombola.errors import TombolaError
from tombola.methods.dense import DenseTraining
from tombola.parameters import prunable
from tombola.search.find import denominator, run_find
from tombola.search.request import make_request


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
    with pytest.warns(LeftOutWarning, match=r"^80 of 928 parameters are prunable \(8.62 %\)"):
        warn_of_left_out(coverage(Reader()))
    assert str(coverage(Reader())) == (
        "80 of 928 parameters are prunable (8.62 %); left out are lstm.weight_* (recurrent, 624), "
        "embedding.weight (embedding, 80), own (parameter of Reader, 48): 81.03 % of all; "
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
    text = "19.61 % of the 51 prunable weights, which are 0.70 % of all 7,266 parameters"
    assert density_in_words(10, 51, 7266) == text
    assert density_in_words(10, 51, None) == "19.61 % of the 51 prunable weights"
    assert density_in_words(51, 51, 51) == "100.00 % of the 51 prunable weights, which are all of the parameters"


# ---- including what is left out, from the search to the built network


class Everything(nn.Module):
    """Recurrent, embedding, bilinear and bare parameters on digits' 8 x 8 pixels; the output shares the embedding."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.bag = nn.EmbeddingBag(17, 6)
        self.lstm = nn.LSTM(8, 6, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(12, 6, batch_first=True)
        self.cell = nn.GRUCell(6, 6)
        self.pair = nn.Bilinear(6, 6, 6)
        self.own = nn.Parameter(torch.randn(6, 6))
        self.out = nn.Linear(6, 10)
        if tied:
            self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1).unflatten(1, (8, 8))
        hidden = self.gru(self.lstm(rows)[0])[0][:, -1]
        bag = self.bag(((rows.flatten(1) + 2) * 4).clamp(0, 16).long())
        return self.out(self.pair(self.cell(hidden, bag), bag) @ self.own)


INCLUDE = ("*.weight", "*.weight_*", "own")


def test_what_is_left_out_can_be_included_end_to_end() -> None:
    torch.manual_seed(0)
    model = Everything()
    method = tombola.IterativePruning(density=0.3, rounds=2, include=INCLUDE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing of note is left out now
        ticket = tombola.find(model, "digits", method, recipe={"length": "6it", "eval_every": "3it"})
    names = {"own", "embedding.weight", "bag.weight", "pair.weight", "cell.weight_ih", "cell.weight_hh"}
    names |= {f"lstm.weight_{part}_l0{way}" for part in ("ih", "hh") for way in ("", "_reverse")}
    names |= {"gru.weight_ih_l0", "gru.weight_hh_l0"}
    assert set(ticket.mask) == names
    assert ticket.mask.kept == round(0.3 * ticket.mask.total)
    everything = sum(p.numel() for p in model.parameters())
    assert ticket.parameters == {"total": everything, "prunable": ticket.mask.total}
    built = ticket.build(model=model)
    trained = dict(built.named_parameters())
    for name, keep in ticket.mask.items():
        assert not trained[name][~keep].any(), name  # held at exactly 0 through the last level's training
        assert not torch.equal(trained[name], model.get_parameter(name).detach() * keep), name  # and the rest has moved
    assert built.get_submodule("out").weight is built.get_submodule("embedding").weight
    verdict = tombola.verify(ticket, model=model, replicates=1)
    assert verdict.parameters.as_dict() == {**ticket.parameters, "left_out": []}
    assert f"of the {ticket.mask.total:,} prunable weights, which are" in ticket.table()


def test_a_search_says_at_its_start_what_it_leaves_out_and_its_result_holds_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    request = make_request(Everything(), "digits", tombola.EdgePopup(0.5, include=["own"]), recipe={"length": "2it"})
    with pytest.warns(LeftOutWarning, match=r"left out are .*lstm.weight_\* \(recurrent"):
        result = run_find(request, tmp_path)
    assert result.parameters.prunable == 36
    assert result.parameters.total == sum(p.numel() for p in Everything().parameters())
    left = {part.name: part for part in result.parameters.left_out}
    assert left["pair.weight"].as_dict() == {"name": "pair.weight", "shape": [6, 6, 6], "size": 216, "why": "bilinear"}
    assert "own" not in left
    dense = make_request(Everything(tied=False), "digits", DenseTraining(), recipe={"length": "2it"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a dense network has nothing left out of a mask
        run_find(dense, tmp_path)


def test_verifications_name_what_is_left_out_too() -> None:
    torch.manual_seed(0)
    model = Everything(tied=False)
    short = {"length": "1it"}
    ticket = tombola.find(model, "digits", tombola.EdgePopup(0.5, include=["own"]), recipe=short)
    verdict = tombola.verify(ticket, "digits", model=model, replicates=1, recipe=tombola.Recipe(length="1it"))
    covered = coverage(model, include=["own"])
    expected = denominator(covered, covered.prunable).as_dict()
    assert {part["name"] for part in expected["left_out"]} >= {"pair.weight"}
    assert verdict.parameters.as_dict() == expected


def test_a_network_with_supermasks_is_refused_without_a_word_on_its_scores() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    tombola.attach(model)
    for method in (tombola.IterativePruning(density=0.5, rounds=1), tombola.EdgePopup(0.5)):
        with warnings.catch_warnings(action="error", category=LeftOutWarning), pytest.raises(TombolaError) as caught:
            tombola.find(model, "digits", method, recipe={"length": "2it"})
        assert "scores" not in str(caught.value)


def test_scores_of_a_search_are_not_left_out_weights() -> None:
    with warnings.catch_warnings(action="error", category=LeftOutWarning):
        tombola.find("mlp", "digits", tombola.EdgePopup(0.5), recipe={"length": "1it"})


def test_nothing_prunable_says_what_there_is() -> None:
    for method in (tombola.IterativePruning(), tombola.EdgePopup()):
        with pytest.raises(
            TombolaError, match=r"no prunable weight: .* lstm.weight_\* \(recurrent, .*to include: 'lstm"
        ):
            tombola.find(Everything(), "digits", method, recipe={"length": "2it"})
