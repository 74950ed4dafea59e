"""Layers over sequences and signals in native kernels: linear layers over rows, Conv1d, padding of unequal sides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tombola as tb
from clocks import NATIVE
from deployed_networks import thinned
from tombola.deploy.deploy import Deployed
from tombola.parameters import prunable

EQUAL = 1e-5


def deployed(model: nn.Module, *example: Tensor) -> Deployed:
    """In native kernels, equal to the model at two batch sizes, and the same bits from its plan."""
    made = tb.deploy(model, *example, threads=1, clock=NATIVE)
    for rows in (len(example[0]), 5):
        inputs = tuple(torch.randn(rows, *x.shape[1:], generator=torch.manual_seed(rows)) for x in example)
        want, have = model(*inputs), made(*inputs)
        for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (want, have)), strict=True):
            assert a.shape == b.shape
            assert (a - b).abs().max() <= EQUAL * a.abs().max().clamp_min(1e-3)
    again = tb.deploy(model, *example, plan=made.plan)
    assert all(torch.equal(a, b) for a, b in zip(_outputs(again, example), _outputs(made, example), strict=True))
    return made


def _outputs(network: nn.Module, example: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    found = network(*example)
    return found if isinstance(found, tuple) else (found,)


def regions(made: Deployed) -> list[tuple[str, ...]]:
    assert {part.engine for part in made.plan.parts} <= {"native"}
    return [part.layers for part in made.plan.parts]


class Perceptrons(nn.Module):
    """The block of a transformer without attention; its first layer is called on whole and on pooled sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(16, 24), nn.Linear(24, 16), nn.LayerNorm(16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x + self.two(F.dropout(F.gelu(self.one(x)), 0.5, self.training))
        return self.norm(y), self.one(y.mean(1))


def test_a_perceptron_over_sequences_is_one_region() -> None:
    model = thinned(Perceptrons()).eval()
    made = deployed(model, torch.randn(2, 7, 16))
    assert regions(made) == [("one", "two"), ("one",)]
    assert not any("shape" in why for why in made.report.dense.values())


def test_rows_of_four_axes_and_no_rows() -> None:
    model = thinned(nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 5))).eval()
    for shape in ((2, 3, 4, 6), (2, 1, 6), (2, 6)):
        assert regions(deployed(model, torch.randn(shape))) == [("0", "2")]


def test_the_batch_may_be_fixed_and_may_come_second() -> None:
    class Second(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x.transpose(0, 1)).transpose(0, 1)
            return y

    model = thinned(Second()).eval()
    made = tb.deploy(model, torch.randn(2, 3, 6), threads=1, clock=NATIVE)
    x = torch.randn(4, 3, 6)
    torch.testing.assert_close(made(x), model(x))


def test_images_and_rows_share_no_region() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.row = nn.Conv2d(3, 8, 3), nn.Linear(6, 8)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return self.map(x), self.row(y)

    made = deployed(thinned(Both()).eval(), torch.randn(2, 3, 5, 5), torch.randn(2, 4, 6))
    assert regions(made) == [("map",), ("row",)]


def test_dense_layers_over_sequences_stay_as_they_are() -> None:
    made = tb.deploy(nn.Sequential(nn.Linear(6, 8), nn.ReLU()).eval(), torch.randn(2, 3, 6), threads=1, clock=NATIVE)
    assert not made.plan.parts


def test_signals_are_one_region() -> None:
    model = nn.Sequential(
        *(nn.Conv1d(3, 16, 5, stride=2, padding=2, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(3, 2, 1)),
        *(nn.Conv1d(16, 16, 3, dilation=2, padding="same", groups=4), nn.GELU(), nn.AvgPool1d(2)),
        *(nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(32, 7)),
    )
    assert regions(deployed(thinned(model).eval(), torch.randn(2, 3, 64))) == [("0", "4", "9")]


class Padded(nn.Module):
    """Convolutions of even kernels, each after its own padding, as TensorFlow pads."""

    def __init__(self, pad: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two, self.pad = nn.Conv2d(2, 8, (6, 2), (2, 1)), nn.Conv2d(8, 8, (4, 2)), pad

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.two(self.pad(F.relu(self.one(self.pad(x))))))


@pytest.mark.parametrize(
    ("pad", "one"),
    [
        (lambda x: F.pad(x, (0, 1, 2, 3)), True),
        (lambda x: F.pad(x, (2, 1)), True),
        (lambda x: F.pad(x, (0, 1, 2, 3), value=1.0), False),
        (lambda x: F.pad(x, (0, 1, 2, 3), mode="replicate"), False),
        (lambda x: F.pad(x, (0, 1, -1, 2)), False),
        (lambda x: (y := F.pad(x, (0, 1, 1, 2))) + y.mean(), False),
    ],
)
def test_zeros_around_maps_are_their_layers_padding(pad: Callable[[Tensor], Tensor], one: bool) -> None:
    made = deployed(thinned(Padded(pad)).eval(), torch.randn(2, 2, 24, 9))
    assert regions(made) == ([("one", "two")] if one else [("one",), ("two",)])


def test_an_approximate_gelu_stays_and_is_named() -> None:
    model = thinned(nn.Sequential(nn.Linear(6, 8), nn.GELU("tanh"))).eval()
    assert "approximated" in deployed(model, torch.randn(2, 6)).report.dense["1"]


def test_products_with_a_weight_of_inputs_by_outputs() -> None:
    """As GPT-2's layers are written: the batch and the positions as rows, a bias plus a product."""

    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(8))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, x.view(-1, 6), self.weight).view(*x.shape[:-1], 8)

    model = nn.Sequential(Transposed(), nn.LayerNorm(8)).eval()
    assert not regions(deployed(model, torch.randn(2, 3, 6)))  # dense
    with torch.no_grad():
        model[0].weight[::2] = 0
    assert regions(deployed(model, torch.randn(2, 3, 6))) == [("0",)]


def test_gpt_2() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"n_layer": 1, "n_embd": 32, "n_head": 2, "vocab_size": 50, "n_positions": 16}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "use_cache": False}
    model = transformers.GPT2Model(transformers.GPT2Config(**sizes, **ends)).eval()
    with torch.no_grad():
        for weight in prunable(model).values():
            weight[::2] = 0
    words = torch.randint(50, (2, 8), generator=torch.manual_seed(0))
    made = tb.deploy(model, words, threads=1, clock=NATIVE)
    own = [f"h.0.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    assert [layer for part in regions(made) for layer in part] == own
    torch.testing.assert_close(made(words).last_hidden_state, model(words).last_hidden_state, rtol=1e-4, atol=1e-5)


def test_a_transformer_layer() -> None:
    model = thinned(nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True)).eval()
    assert ("linear1", "linear2") in regions(deployed(model, torch.randn(2, 7, 16)))
