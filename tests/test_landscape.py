"""Masks before training: curvature against dense Hessians, statistics by hand, rank correlations, and the study."""

from __future__ import annotations

import itertools
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tombola as tb
from elsewhere import elsewhere
from test_cli import call, last_json
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.report.page import write_report
from tombola.results.landscape import LandscapeResult
from tombola.study.landscape.correlate import rank, spearman
from tombola.study.landscape.hessian import hessian_product, largest_eigenvalue, trace
from tombola.study.landscape.plan import Landscape
from tombola.study.landscape.run import landscape
from tombola.study.landscape.statistics import STATISTICS, statistics_of
from tombola.ticket.ticket import Ticket
from tombola.train.options import Options

# -- curvature


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def symmetric(size: int) -> Tensor:
    matrix = torch.randn(size, size, generator=draws(), dtype=torch.float64)
    return matrix + matrix.T


@pytest.mark.parametrize("size", [1, 2, 5, 16, 17, 60])
def test_the_largest_eigenvalue_of_a_matrix(size: int) -> None:
    matrix = symmetric(size)
    wanted = float(torch.linalg.eigvalsh(matrix)[-1])
    assert largest_eigenvalue(lambda v: matrix @ v, size, draws()) == pytest.approx(wanted, rel=1e-3)


def test_it_is_the_algebraically_largest_and_none_of_nothing() -> None:
    matrix = -torch.diag(torch.arange(1.0, 31.0, dtype=torch.float64))
    assert largest_eigenvalue(lambda v: matrix @ v, 30, draws()) == pytest.approx(-1.0, rel=1e-3)
    assert largest_eigenvalue(lambda v: v, 0, draws()) is None


@pytest.mark.parametrize("size", [3, 30])
def test_the_largest_eigenvalue_of_zeros_is_0_and_of_what_is_not_finite_none(size: int) -> None:
    assert largest_eigenvalue(torch.zeros_like, size, draws()) == 0.0
    for value in (math.nan, math.inf):
        assert largest_eigenvalue(lambda v, value=value: torch.full_like(v, value), size, draws()) is None  # type: ignore[misc]


def test_forward_derivatives_do_not_warn_of_torchscript() -> None:
    code = (
        "import torch; from tombola.study.landscape.hessian import hessian_product; "
        "print(hessian_product(lambda v: torch.sigmoid(v).sum() * torch.nn.functional.cross_entropy("
        "v.view(1, 2), torch.zeros(1, dtype=torch.int64)), torch.zeros(2))(torch.ones(2)))"
    )
    done = subprocess.run([sys.executable, "-W", "error::FutureWarning", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_trace_of_a_diagonal_is_exact_and_its_expectation_the_trace() -> None:
    diagonal = torch.diag(torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64))
    assert trace(lambda v: diagonal @ v, 3, draws(), 1) == 2.5
    matrix = symmetric(4)
    signs = [torch.tensor(one, dtype=torch.float64) for one in itertools.product((-1.0, 1.0), repeat=4)]
    assert sum(float(v @ matrix @ v) for v in signs) / 16 == pytest.approx(float(matrix.trace()))
    many = trace(lambda v: matrix @ v, 4, draws(), 4000)
    off = matrix - torch.diag(matrix.diagonal())
    assert abs(many - float(matrix.trace())) < 5 * math.sqrt(2 * float(off.square().sum()) / 4000)


def test_products_with_the_hessian_also_where_there_is_no_forward_derivative() -> None:
    class Cube(torch.autograd.Function):
        """x^3, of which torch knows no forward derivative."""

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x**3

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
            ctx.save_for_backward(inputs[0])

        @staticmethod
        def backward(ctx: Any, given: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return given * 3 * x**2

    point = torch.tensor([1.0, 2.0])
    for cube in (lambda v: (v**3).sum(), lambda v: Cube.apply(v).sum()):
        assert hessian_product(cube, point)(torch.tensor([1.0, 1.0])).tolist() == [6.0, 12.0]


class Small(nn.Sequential):
    """A network small enough for its whole Hessian."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3))


def sample() -> tuple[Tensor, Tensor]:
    return torch.randn(30, 3, generator=draws(1)), torch.arange(30) % 3


def test_statistics_of_a_masked_network_against_its_dense_hessian() -> None:
    torch.manual_seed(0)
    net, (x, y) = Small(), sample()
    prunable = {name: p for name, p in net.named_parameters() if p.ndim > 1}
    mask = Mask({name: torch.rand(p.shape, generator=draws(2)) < 0.6 for name, p in prunable.items()})
    found = statistics_of(net, mask, [(x[:20], y[:20]), (x[20:], y[20:])], F.cross_entropy, seed=0, probes=3000)
    parameters = dict(net.named_parameters())
    assert all(float((parameters[name] * ~keep).abs().sum()) == 0 for name, keep in mask.items())

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([p.numel() for p in parameters.values()])
        made = {name: part.view_as(p) for (name, p), part in zip(parameters.items(), parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(net, made, (x,)), y)

    flat = torch.cat([p.detach().flatten() for p in parameters.values()])
    full = {name: torch.ones_like(p, dtype=torch.bool) for name, p in parameters.items()}
    keep = torch.cat([part.flatten() for part in {**full, **mask}.values()])
    hessian, gradient = torch.func.hessian(loss)(flat)[keep][:, keep], torch.func.grad(loss)(flat)
    assert found["loss"] == pytest.approx(float(loss(flat)), rel=1e-5)
    assert found["gradient_norm"] == pytest.approx(float(gradient[keep].norm()), rel=1e-4)
    assert found["eigenvalue"] == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-3)
    assert found["trace"] == pytest.approx(float(hessian.trace()), rel=0.1)
    weights = torch.cat([torch.full((p.numel(),), name in mask) for name, p in parameters.items()]) & keep
    assert found["growing"] == pytest.approx(float((gradient * flat)[weights].lt(0).double().mean()))


def test_gradient_signs_by_hand() -> None:
    """l_i = w·x_i: the signs are those of x. Over three examples they add up to 3 and 1; the third weight is pruned."""
    net = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-1.0, 1.0, 9.0]]))
    x = torch.tensor([[1.0, 1.0, 1.0], [2.0, -3.0, 1.0], [0.5, 1.0, 1.0]])
    mask = Mask({"weight": torch.tensor([[True, True, False]])})
    found = statistics_of(net, mask, [(x, torch.zeros(3))], lambda output, target: output.mean(), seed=0, probes=1)
    assert found["gradsign"] == 4.0
    assert found["sign_agreement"] == pytest.approx((1 + 1 / 3) / 2)
    # mean gradient (7/6, -1/3): a step moves -1 further from 0, and 1 too
    assert found["growing"] == 1.0
    assert found["gradient_norm"] == pytest.approx(math.hypot(7 / 6, 1 / 3))
    assert found["eigenvalue"] == found["trace"] == 0.0
    assert net.weight.tolist() == [[-1.0, 1.0, 0.0]]


def test_norms_dropout_convolutions_and_an_empty_mask() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(36, 3)
    )
    batch = torch.randn(12, 1, 8, 8, generator=draws()), torch.arange(12) % 3
    mask = Mask.full({name: p for name, p in net.named_parameters() if p.ndim > 1})
    first = statistics_of(net, mask, [batch], F.cross_entropy, seed=0, probes=2)
    assert all(value is not None and math.isfinite(value) for value in first.values())
    assert statistics_of(net, mask, [batch], F.cross_entropy, seed=0, probes=2) == first
    empty = Mask({name: torch.zeros_like(keep) for name, keep in mask.items()})
    none = statistics_of(net, empty, [batch], F.cross_entropy, seed=0, probes=2)
    assert (none["growing"], none["sign_agreement"], none["gradsign"]) == (None, None, 0.0)


# -- rank correlations


def test_rank_correlations_are_scipys() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, 6, 12).astype(float), rng.normal(size=12)
        assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert math.isnan(spearman(np.ones(4), np.arange(4.0)))


def test_intervals_come_of_the_masks_and_of_the_seed() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    noisy = x + rng.normal(size=40)
    found = rank([range(40)], [x], [noisy], seed=0, resamples=500)
    assert found == rank([range(40)], [x], [noisy], seed=0, resamples=500)
    assert found != rank([range(40)], [x], [noisy], seed=1, resamples=500)
    assert found.interval is not None
    assert found.interval[0] < (found.value or 0.0) < found.interval[1]
    assert found.tells
    exact = rank([range(40)], [x], [np.exp(x)], seed=0, resamples=100)
    assert (exact.value, exact.interval, exact.masks) == (pytest.approx(1), (pytest.approx(1), pytest.approx(1)), 40)


def test_too_few_masks_have_a_correlation_without_an_interval() -> None:
    x = np.arange(5.0)
    few = rank([range(4)], [x[:4]], [x[:4]], seed=0, resamples=100)
    assert (few.value, few.interval, few.masks, few.tells) == (pytest.approx(1), None, 4, False)
    assert rank([range(5)], [x], [x], seed=0, resamples=100).tells


def test_within_groups_what_they_differ_by_does_not_count() -> None:
    x, y = np.array([1.0, 2, 3, 11, 12, 13]), np.array([3.0, 2, 1, 13, 12, 11])
    assert (rank([range(6)], [x], [y], seed=0, resamples=100).value or 0) > 0
    assert rank([[0, 1, 2], [3, 4, 5]], [x], [y], seed=0, resamples=100).value == pytest.approx(-1)
    missing = rank([[0, 1, 2], [3, 4, 5]], [np.array([1, np.nan, 3, 11, 12, 13])], [y], seed=0, resamples=100)
    assert missing.masks == 3
    assert rank([[0, 1]], [x], [y], seed=0, resamples=100).value is None
    assert rank([range(6)], [np.ones(6)], [y], seed=0, resamples=100).value is None


# -- the study

TINY = {"length": "6it", "eval_every": "3it", "batch_size": 60}
PLAN = Landscape(density=0.2, rounds=2, criteria=("snip", "random"), batches=1, probes=2, resamples=100)
ONE = Options(threads=1)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> LandscapeResult:
    return landscape("mlp", "digits", PLAN, recipe=TINY, out=tmp_path_factory.mktemp("l"), replicates=2, options=ONE)


def folder(study: LandscapeResult) -> Path:
    assert study.run is not None
    return Path(study.run)


def test_every_mask_has_its_control_and_the_density_of_its_round(study: LandscapeResult) -> None:
    assert [(mask.level, mask.source, mask.shuffled) for mask in study.masks] == [
        (level, source, control)
        for level in (1, 2)
        for source in ("imp", "snip", "random")
        for control in (False, True)
    ]
    for replicate in range(2):
        for level in (1, 2):
            found = Ticket.load(folder(study) / f"replicate-{replicate}/level-{level:02d}/network.ticket")
            there = [mask for mask in study.masks if mask.level == level]
            here = {mask.name: Ticket.load(folder(study) / mask.tickets[replicate]) for mask in there}
            assert here["imp"].mask == found.mask
            assert {ticket.mask.kept for ticket in here.values()} == {found.mask.kept}
            assert {ticket.origin.weights_hash for ticket in here.values()} == {found.origin.weights_hash}
            for source in ("imp", "snip", "random"):
                control = here[f"{source}, shuffled"].mask
                assert control.counts() == here[source].mask.counts()
                assert control != here[source].mask


def test_statistics_are_of_the_first_weights(study: LandscapeResult) -> None:
    mask = next(one for one in study.masks if one.name == "snip" and one.level == 2)
    assert tuple(mask.statistics) == STATISTICS
    ticket = Ticket.load(folder(study) / mask.tickets[0])
    network = ticket.build("origin")
    assert study.examples == 60  # one batch
    assert all(value is not None for figure in mask.statistics.values() for value in figure.values)
    assert sum(int((p != 0).sum()) for name, p in network.named_parameters() if name in ticket.mask) <= ticket.mask.kept


def test_every_statistic_is_correlated(study: LandscapeResult) -> None:
    assert [one.statistic for one in study.correlations] == ["density", *STATISTICS]
    density, loss = study.correlations[:2]
    assert density.within_density.value is None  # it is the same within
    assert loss.overall.masks == loss.within_density.masks == 12
    assert loss.against_shuffled.masks == 6
    x = [np.array([mask.statistics["loss"].values[r] for mask in study.masks]) for r in range(2)]
    y = [np.array([mask.accuracy.values[r] for mask in study.masks]) for r in range(2)]
    wanted = sum(float(spearman(a, b)) for a, b in zip(x, y, strict=True)) / 2
    assert loss.overall.value == pytest.approx(wanted)


def test_a_study_cut_short_finds_its_stages_again(study: LandscapeResult) -> None:
    run = folder(study)
    given: dict[str, Any] = {"recipe": TINY, "out": run.parent, "replicates": 2, "options": ONE}
    assert landscape("mlp", "digits", PLAN, **given) == study.replace(reused=True)
    (run / "result.json").unlink()
    shutil.rmtree(run / "replicate-1/snip-02")
    shutil.rmtree(run / "readings/0-imp-shuffled-01")
    logs = {file: file.stat().st_mtime_ns for file in run.rglob("metrics.csv")}
    assert len(tb.results(run)) == 2 * (3 + 12) - 1
    assert landscape("mlp", "digits", PLAN, **given) == study
    assert logs == {file: file.stat().st_mtime_ns for file in logs}


def test_other_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Landscape(density=0.2, rounds=1, criteria=("snip",), batches=1, probes=1, resamples=100)
    given: dict[str, Any] = {"recipe": TINY, "options": ONE}
    one = landscape("mlp", "digits", plan, out=tmp_path / "one", **given)
    monkeypatch.setattr("tombola.search.driver.map_jobs", elsewhere)
    two = landscape("mlp", "digits", plan, out=tmp_path / "two", jobs=2, **given)
    assert one.replace(run=None) == two.replace(run=None)


def test_a_live_model_of_other_activations_has_no_px(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))
    plan = Landscape(density=0.5, rounds=1, criteria=("magnitude",), batches=1, probes=1, resamples=100)
    found = landscape(net, "digits", plan, recipe=TINY, out=tmp_path, options=ONE)
    assert {mask.statistics["px"].mean for mask in found.masks} == {None}
    assert all(mask.statistics["ntk_sap"].mean is not None for mask in found.masks)
    px = found.correlations[-1]
    assert (px.statistic, px.overall.value, px.overall.masks) == ("px", None, 0)


def test_its_page_and_its_table(study: LandscapeResult, tmp_path: Path) -> None:
    made = write_report([folder(study)], tmp_path)
    page = made.html.read_text()
    for heading in ("What a statistic tells", "Hessian eigenvalue", "NTK-SAP", "Every mask"):
        assert heading in page
    names = {file.stem for file in made.figures}
    assert {"landscape-correlations", "landscape-sign-agreement", "landscape-px"} <= names
    assert {row.arm for row in tb.results(folder(study))} >= {"imp", "snip, shuffled"}


def test_the_command_line(tmp_path: Path) -> None:
    words = ["study", "landscape", "--model", "mlp", "--data", "digits", "--rounds", "1", "--criteria", "[ntk-sap]"]
    words += ["--length", "6it", "--eval_every", "3it", "--batches", "1", "--probes", "1", "--resamples", "100"]
    words += ["--out", str(tmp_path), "--threads", "1"]
    found = last_json(*words)
    assert (found["kind"], len(found["masks"])) == ("landscape", 4)
    assert {mask["source"] for mask in found["masks"]} == {"imp", "ntk_sap"}
    status, out, _ = call(*words)
    assert status == 0
    assert "already finished" in out
    assert "Hessian trace" in out


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"density": 1.0}, "density is 1.0, but it must lie between 0 and 1"),
        ({"batches": 0}, "batches is 0"),
        ({"probes": 0}, "probes is 0"),
        ({"resamples": 5}, "resamples is 5"),
        ({"criteria": ("luck",)}, "luck"),
        ({"criteria": ("snip", "snip")}, "criteria names one twice"),
        ({"criteria": ("movement",)}, "movement"),
        ({"imp": {"rewind": "2it"}}, "imp names rewind"),
        ({"imp": {"density": 0.2}}, "imp names density"),
        ({"imp": {"nonsense": 1}}, "nonsense"),
        ({"rounds": 0}, "rounds is 0"),
    ],
)
def test_mistakes_are_met_before_anything_is_written(plan: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(TombolaError, match=says):
        landscape("mlp", "digits", Landscape(**plan), recipe=TINY, out=tmp_path, options=ONE)
    assert not list(tmp_path.iterdir())


def test_data_without_a_test_split_is_refused(tmp_path: Path) -> None:
    part = (torch.rand(40, 1, 8, 8), torch.arange(40) % 10)
    with pytest.raises(TombolaError, match="no test split"):
        landscape("mlp", (part, part), PLAN, recipe=TINY, out=tmp_path, options=ONE)
    assert not list(tmp_path.iterdir())
