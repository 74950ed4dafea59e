"""Network, data and task go together, or one line says why not; whatever a network returns, a search works on it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset
from torchvision import models

import tombola as tb
from tombola.data.splits import Splits, Task, accuracy, classification, make_splits
from tombola.errors import TombolaError
from tombola.models.spec import ModelSpec
from tombola.nn.forward import leaves
from tombola.search.origin import start_from
from tombola.train.fit import check_fits

torch.manual_seed(0)
X = torch.randn(60, 6)
Y = (X @ torch.randn(6, 3)).argmax(1)
ONCE = tb.IterativePruning(density=0.4, rounds=1)
SHORT = tb.Recipe(length="2it", batch_size=12, lr=0.05)


def net(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, outputs))


def parts(x: Any, y: Any, *task: Task) -> tuple[Any, ...]:
    return (x[:36], y[:36]), (x[36:48], y[36:48]), (x[48:], y[48:]), *task


def fit(model: nn.Module, *given: Any) -> None:
    check_fits(model, make_splits(*parts(*given)))


# ---- outputs of every form ---------------------------------------------------------------------------------


@dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None = None


class Heads(NamedTuple):
    logits: Tensor
    aux: Any


class Returning(nn.Module):
    """A network that returns `form(scores, training)`."""

    def __init__(self, form: Callable[[Tensor, bool], Any]) -> None:
        super().__init__()
        self.body, self.form = net(), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.body(x), self.training)


def with_auxiliary(scores: Tensor, training: bool) -> Any:
    return Heads(scores, {"aux": scores * 2}) if training else scores


FORMS: dict[str, Callable[[Tensor, bool], Any]] = {
    "tuple": lambda scores, training: (scores, None),
    "list": lambda scores, training: [scores, scores.mean()],
    "dict": lambda scores, training: OrderedDict(out=scores, scale=1.0),
    "named tuple": lambda scores, training: Heads(scores, None),
    "dataclass": lambda scores, training: Answer(scores),
    "in training only": with_auxiliary,
    "in evaluation only": lambda scores, training: scores if training else (scores,),
}


def scores_of(output: Any) -> Tensor:
    return leaves(output)[0]


APART = Task(
    lambda output, y: sum((F.cross_entropy(part, y) for part in leaves(output) if part.dim() == 2), torch.zeros(())),
    lambda output, y: accuracy(scores_of(output), y),
)


@pytest.mark.parametrize("form", FORMS)
def test_a_task_gets_what_the_network_returns(form: str) -> None:
    data, model = parts(X, Y, APART), Returning(FORMS[form])
    ticket = tb.find(model, data, ONCE, recipe=SHORT)
    verdict = tb.verify(ticket, data, replicates=1, model=model)
    assert ticket.mask.kept == round(0.4 * 108)
    assert 0 <= verdict.arms["ticket"].mean <= 1


@pytest.mark.parametrize("method", [tb.IterativePruning(density=0.4, rounds=1, criterion="snip"), "edge-popup"])
def test_methods_on_outputs_of_several_parts(method: Any) -> None:
    from tombola.methods import METHODS

    chosen = METHODS[method]() if isinstance(method, str) else method
    data, model = parts(X, Y, APART), Returning(with_auxiliary)
    ticket = tb.find(model, data, chosen, recipe=SHORT)
    assert 0 < ticket.density < 1
    if isinstance(method, str):  # its untrained network is scored too
        assert tb.verify(ticket, data, replicates=1, model=model, recipe=SHORT).untrained


@pytest.mark.parametrize("form", FORMS)
def test_the_default_task_says_what_was_returned_and_what_to_do(form: str) -> None:
    says = r"^the network returns [^\n]*, but cross-entropy takes one tensor of [^\n]*, e\.g\. "
    with pytest.raises(TombolaError, match=says) as error:
        tb.find(Returning(FORMS[form]), parts(X, Y), ONCE, recipe=SHORT)
    # the task that the line proposes is one that works
    proposed = str(error.value).partition("e.g. ")[2]
    task = eval(proposed, {"Task": Task, "F": F, "accuracy": accuracy, "torch": torch})
    if form != "in evaluation only":
        fit(Returning(FORMS[form]), X, Y, task)


def test_half_precision_comes_to_the_task_as_float32() -> None:
    seen = set()

    def loss(output: Any, y: Tensor) -> Tensor:
        seen.update(part.dtype for part in leaves(output))
        return F.cross_entropy(output["out"], y)

    task = Task(loss, lambda output, y: accuracy(output["out"], y))
    model = Returning(lambda scores, training: {"out": scores}).to(torch.bfloat16)
    tb.find(model, parts(X, Y, task), ONCE, recipe=SHORT)
    assert seen == {torch.float32}


def test_published_networks_with_several_outputs() -> None:
    x, y, areas = (
        torch.randn(60, 3, 48, 48),
        torch.arange(60) % 3,
        torch.arange(60)[:, None, None].expand(-1, 48, 48) % 3,
    )
    google = models.googlenet(num_classes=3, aux_logits=True, init_weights=False)  # three heads, in training alone
    with pytest.raises(
        TombolaError, match=r"returns in training mode a GoogLeNetOutputs of logits \(8, 3\), aux_logits2"
    ):
        fit(google, x, y)
    fit(google, x, y, APART)
    mobile = models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    with pytest.raises(
        TombolaError, match=r"an OrderedDict of 'out' \(8, 3, 48, 48\), .*accuracy\(output\['out'\], y\)"
    ):
        fit(mobile, x, areas)
    masked = areas.clone()
    masked[:, 0] = 255
    pixelwise = Task(
        lambda output, y: F.cross_entropy(output["out"], y, ignore_index=255),
        lambda output, y: accuracy(output["out"], y, ignore_index=255),
    )
    fit(mobile, x, masked, pixelwise)


# ---- labels ------------------------------------------------------------------------------------------------

PIXELS = torch.randn(60, 2, 4, 4)
MAP = (PIXELS[:, 0] > 0).long()


class Tagger(nn.Module):
    def __init__(self, last: bool) -> None:
        super().__init__()
        self.embed, self.head, self.last = nn.Embedding(5, 8), nn.Linear(8, 5), last

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.embed(x))
        return scores if self.last else scores.movedim(-1, 1)


TOKENS = torch.randint(5, (60, 7))


@pytest.mark.parametrize(
    ("model", "x", "y", "says"),
    [
        (
            net(),
            X,
            Y[:, None],
            r"targets of shape \(8, 1\) do not go with outputs \(8, 3\): class numbers of shape \(8,\) "
            r"are needed; give y\.squeeze\(1\)",
        ),
        (nn.Conv2d(2, 2, 1), PIXELS, MAP[:, None], r"of shape \(8, 4, 4\) are needed; give y\.squeeze\(1\)"),
        (nn.Conv2d(2, 2, 1), PIXELS, F.one_hot(MAP).movedim(-1, 1), r"they look one-hot: give y\.argmax\(1\)"),
        (Tagger(last=True), TOKENS, TOKENS, r"the classes come last here: give a task that moves them"),
        (net(2), X, Y, "the network gives 2 outputs, but the data has 3 classes; make it with 3 outputs"),
        (
            nn.Sequential(net(1), nn.Flatten(0)),
            X,
            Y,
            r"returns a float32 tensor of shape \(8,\), but .* \(N, classes, ",
        ),
        (nn.Conv2d(2, 2, 1), PIXELS, MAP * 255, "if 255 marks what to leave out, give the task classification"),
        (
            net(),
            X.long(),
            Y,
            r"does not take int64 inputs of shape .* are taken for tokens; give features as floats\): Runtime",
        ),
        (net(), X[:, :5], Y, r"the network does not take float32 inputs of shape \(5,\): RuntimeError: mat1"),
    ],
)
def test_labels_and_outputs_that_do_not_go_together(model: nn.Module, x: Tensor, y: Tensor, says: str) -> None:
    with pytest.raises(TombolaError, match=says) as error:
        fit(model, x, y)
    assert "\n" not in str(error.value)


def test_streamed_labels_of_another_form() -> None:
    class Examples(Dataset[Any]):
        def __len__(self) -> int:
            return 12

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            return X[index], F.one_hot(Y[index], 3).float()

    with pytest.raises(TombolaError, match=r"targets are float32 of shape \(8, 3\), but accuracy needs class numbers"):
        check_fits(net(), make_splits(Examples(), Examples()))


def test_what_goes_together() -> None:
    fit(net(), X, Y)
    fit(net(5), X, Y)
    fit(nn.Conv2d(2, 2, 1), PIXELS, MAP)
    fit(Tagger(last=False), TOKENS, TOKENS)
    fit(net(), X.half(), Y.int())
    soft = Task(F.cross_entropy, lambda output, y: (output.argmax(1) == y.argmax(1)).float())
    fit(net(), X, F.one_hot(Y, 3).float(), soft)
    fit(net(), X, Y, Task(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3])), accuracy))
    one = X[:1], Y[:1]
    check_fits(nn.Sequential(net(), nn.BatchNorm1d(3)), make_splits((X, Y), one))  # too few for a norm's statistics


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (Task(partial(F.cross_entropy, reduction="none"), accuracy), r"the loss gives shape \(8,\)"),
        (Task(partial(F.cross_entropy, reduction="sum"), accuracy), r"reduction='mean'"),
        (Task(nn.CrossEntropyLoss(reduction="sum"), accuracy), r"reduction='mean'"),
        (Task(F.binary_cross_entropy_with_logits, accuracy), "the loss fails on"),
        (Task(lambda output, y: output.logits.mean(), accuracy), "the loss fails on"),
        (Task(F.cross_entropy, lambda output, y: output.logits), "metric accuracy fails on"),
    ],
)
def test_tasks_that_do_not_go_with_the_network(task: Task, says: str) -> None:
    with pytest.raises(TombolaError, match=says) as error:
        fit(net(), X, Y, task)
    assert "\n" not in str(error.value)


def test_pixels_that_do_not_count_are_no_errors() -> None:
    """A network that is right wherever there is a label has accuracy 1, whatever 255 and -100 stand at."""
    model = nn.Conv2d(2, 2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, 0], [1, 0]])[:, :, None, None])
        model.bias.zero_()
    for ignored in (-100, 255):
        labels = MAP.clone()
        labels[:, 0] = ignored
        task = classification(ignore_index=ignored)
        ticket = tb.find(
            model, parts(PIXELS, labels, task), tb.IterativePruning(levels=0), recipe=tb.Recipe(lr=0.0, length="1it")
        )
        verdict = tb.verify(ticket, parts(PIXELS, labels, task), replicates=1, model=model)
        assert verdict.arms["dense"].mean == 1.0


# ---- networks by name or path ------------------------------------------------------------------------------


class Net(nn.Module):
    """A network by import path, whose default is none of the data's."""

    def __init__(self, num_classes: int = 7) -> None:
        super().__init__()
        self.layer = nn.Linear(6, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


PATH = f"{__name__}.Net"
OWN = Task(lambda output, y: output.mean() * 0 + y.double().mean() * 0, lambda output, y: torch.zeros(len(y)), "zero")


def outputs_of(name: str, splits: Splits) -> int:
    model = start_from(ModelSpec(name), splits, seed=0).network()
    return int(model(splits.train.x[:2]).shape[1])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("y", "task", "path", "own"),
    [
        (Y, None, 3, 3),
        (Y, OWN, 3, 3),
        (Y, Task(F.cross_entropy, lambda output, y: accuracy(output, y)), 3, 3),
        (X[:, :4], OWN, 4, 4),
        (X[:, 0], OWN, 7, 1),
        (X[:, :1], OWN, 7, 1),
        (X[:, :4].view(60, 2, 2), OWN, 7, None),
    ],
)
def test_the_number_of_outputs_comes_from_the_targets(y: Tensor, task: Task | None, path: int, own: int | None) -> None:
    splits = make_splits(*parts(X, y), *([task] if task else []))
    assert outputs_of(PATH, splits) == path
    if own is not None:
        assert outputs_of("mlp", splits) == own
    else:
        with pytest.raises(TombolaError, match="it is not known how many outputs mlp should have"):
            outputs_of("mlp", splits)


def test_a_network_by_path_is_built_again_from_its_ticket() -> None:
    data = parts(X, X[:, 0], OWN)
    ticket = tb.find(PATH, data, ONCE, recipe=SHORT)
    assert ticket.build(trusted=(__name__,)).layer.weight.shape == (7, 6)


# ---- precision ---------------------------------------------------------------------------------------------

DTYPES = [torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["imp", "edge-popup", "joint", "multi-prize", "learned-mask", "signed-supermask"])
def test_networks_keep_their_dtype_to_the_bit(dtype: torch.dtype, method: str) -> None:
    from tombola.methods import METHODS

    model = nn.Sequential(net(), nn.BatchNorm1d(3)).to(dtype)
    kinds = {name: value.dtype for name, value in model.state_dict().items()}
    ticket = tb.find(model, parts(X, Y), METHODS[method](), recipe=SHORT)
    read = tb.Ticket.from_bytes(ticket.to_bytes())
    for weights in ("final", "origin"):
        built, again = (one.build(weights, model=model).state_dict() for one in (ticket, read))
        assert {name: value.dtype for name, value in built.items()} == kinds
        assert all(torch.equal(value, again[name]) for name, value in built.items())
    if method == "imp":
        assert tb.verify(read, parts(X, Y), replicates=1, model=model).arms["ticket"].mean >= 0


def test_what_is_trained_in_double_is_stored_in_double() -> None:
    model = net().double()
    ticket = tb.find(model, parts(X.double(), Y), ONCE, recipe=SHORT)
    weight = dict(ticket.build(model=model).named_parameters())["0.weight"]
    assert not torch.equal(weight, weight.float().double())


@pytest.mark.parametrize("loss", [F.huber_loss, F.mse_loss, F.smooth_l1_loss])
@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64])
def test_inputs_and_targets_follow_the_network(loss: Any, given: torch.dtype) -> None:
    task = Task(loss, lambda output, y: (output - y).abs().mean(1), "error", False)
    for dtype in (*DTYPES, torch.float32):
        tb.find(net(2).to(dtype), parts(X.to(given), X[:, :2].to(given), task), ONCE, recipe=SHORT)


def test_doubles_reach_a_network_in_double_precision_unrounded() -> None:
    x = torch.rand(60, 6, dtype=torch.float64)
    seen: list[Tensor] = []

    class Seeing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            out: Tensor = self.body(x)
            return out

    check_fits(Seeing().double(), make_splits(*parts(x, Y), floats=torch.float64))
    assert torch.equal(seen[0], x[36:44])
    check_fits(Seeing(), make_splits(*parts(x, Y), floats=torch.float64))
    assert torch.equal(seen[-1], x[36:44].float())


def test_data_in_a_tuple_is_held_in_the_precision_of_a_live_network() -> None:
    x = torch.rand(60, 6, dtype=torch.float64)
    seen: list[Tensor] = []
    task = Task(lambda output, y: (output - y).square().mean(), lambda output, y: seen.append(y) or y[:, 0], "y")  # type: ignore[func-returns-value]
    data = parts(x, x[:, :2], task)
    ticket = tb.find(net(2).double(), data, ONCE, recipe=SHORT)
    assert any(torch.equal(y, x[48:, :2]) for y in seen)
    assert tb.verify(ticket, data, replicates=1, model=net(2).double())


# ---- data as a whole ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (TensorDataset(X, Y), r"the data is a TensorDataset; give a data set's name, .* \(train, val, test\)"),
        (None, "the data is a NoneType; give"),
        ((), "the data is a tuple of 0; give"),
        ([(X, Y)] * 5, "the data is a list of 5; give"),
        ((X, Y), r"the train split is a Tensor; allowed are \(x, y\), a TensorDataset"),
        ((X.numpy(), Y.numpy()), "the train split is a ndarray; allowed are"),
        (({"x": X, "y": Y}, None), "the train split is a dict; allowed are"),
    ],
)
def test_data_that_is_none(data: Any, says: str) -> None:
    with pytest.raises(TombolaError, match=says):
        tb.find(net(), data, ONCE, recipe=SHORT)


def test_verify_checks_before_it_trains() -> None:
    ticket = tb.find(net(), parts(X, Y), ONCE, recipe=SHORT)
    with pytest.raises(TombolaError, match=r"give y\.squeeze\(1\)"):
        tb.verify(ticket, parts(X, Y[:, None]), replicates=1, model=net(), options=tb.Options(force=True))
