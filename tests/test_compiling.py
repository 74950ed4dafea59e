"""While one thread is within torch.export, which says in all threads that it compiles, others train as ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from clocks import NATIVE
from tombola.compact import compact
from tombola.machine.compiling import compiling
from tombola.mask import Mask
from tombola.supermask.parametrization import StaleMaskWarning

READING, GO_ON = threading.Event(), threading.Event()


class Waits(nn.Module):
    """In the middle of being read by torch.export it waits for others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            assert compiling()
            READING.set()
            assert GO_ON.wait(60)
        out: Tensor = self.layer(x)
        return out


@contextmanager
def a_reader() -> Iterator[Callable[[], None]]:
    """Another thread is within torch.export, until what is given is called, or to the end."""
    READING.clear()
    GO_ON.clear()
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(compact, Waits(), torch.randn(2, 3))
        try:
            assert READING.wait(60)
            assert torch.compiler.is_compiling()

            def finish() -> None:
                GO_ON.set()
                assert read.result().report.reason is None

            yield finish
        finally:
            GO_ON.set()


def held() -> tuple[nn.Sequential, Mask]:
    draw = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=draw))
    mask = Mask(
        {name: torch.rand(p.shape, generator=draw) < 0.5 for name, p in model.named_parameters() if p.dim() == 2}
    )
    tb.hold(model, mask)
    return model, mask


def overwrite(model: nn.Module) -> None:
    for p in model.parameters():
        p.data.fill_(1.0)


def masked(model: nn.Module, mask: Mask) -> bool:
    return all(bool((model.get_parameter(name)[~kept] == 0).all()) for name, kept in mask.items())


def test_only_the_thread_that_reads_compiles() -> None:
    assert not compiling()
    with a_reader():
        assert not compiling()
    assert not compiling()


def test_pruned_values_are_written_beside_a_reader() -> None:
    model, mask = held()
    with a_reader():
        overwrite(model)
        model(torch.ones(1, 4))
        assert masked(model, mask)


class Calls(nn.Module):
    """Calls something in the middle of a forward pass."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        self.call()
        return x


def part_is_masked(model: nn.Sequential, mask: Mask) -> bool:
    """Whether a part that is called alone gets its pruned values, whatever wrote them."""
    overwrite(model)
    model[0](torch.ones(1, 4))
    return bool((model[0][0].weight[~mask["0.0.weight"]] == 0).all())


def test_a_forward_pass_may_begin_beside_a_reader() -> None:
    model, mask = held()
    with a_reader() as finish:
        model.append(Calls(finish))
        model(torch.ones(1, 4))
    assert part_is_masked(model, mask)


def test_a_forward_pass_may_end_beside_a_reader() -> None:
    model, mask = held()
    with ExitStack() as reader:
        model.append(Calls(lambda: reader.enter_context(a_reader())))
        model(torch.ones(1, 4))
        assert part_is_masked(model, mask)
    assert part_is_masked(model, mask)


def attached() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    tb.attach(model)
    return model


def test_stale_masks_are_warned_of_beside_a_reader() -> None:
    model = attached()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with a_reader():
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        with pytest.warns(StaleMaskWarning):
            model(torch.ones(1, 4))


def test_a_second_derivative_is_refused_beside_a_reader() -> None:
    model = attached()
    scores = [p for name, p in model.named_parameters() if name.endswith("scores")]
    with a_reader():
        first = torch.autograd.grad(model(torch.ones(1, 4)).square().sum(), scores, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            sum(g.square().sum() for g in first).backward()  # type: ignore[union-attr]


def trained(model: nn.Module, going: Callable[[int], bool]) -> tuple[int, dict[str, Tensor]]:
    """Steps of training while that goes on, and what comes of them; every answer of a step is part of the next."""
    draw = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    steps = 0
    while going(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 4, generator=draw)).square().mean()
        loss.backward()
        optimizer.step()
        if any(name.endswith("scores") for name, _ in model.named_parameters()):
            tb.refresh(model)
        steps += 1
    return steps, {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("make", [lambda: held()[0], attached], ids=["held", "supermask"])
def test_training_beside_deployments_gives_the_same_bits(make: Callable[[], nn.Module]) -> None:
    stop, first, second = threading.Event(), make(), make()  # drawn here: threads share torch's global generator

    def deploys() -> None:
        draw = torch.Generator().manual_seed(2)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        try:
            for _ in range(2):
                tb.deploy(model, torch.randn(2, 4, generator=draw), threads=1, clock=NATIVE)
        finally:
            stop.set()

    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(deploys)
        steps, found = pool.submit(partial(trained, first, lambda _: not stop.is_set())).result()
        other.result()
    assert steps
    again, want = trained(second, lambda step: step < steps)
    assert again == steps
    assert found.keys() == want.keys()
    assert all(torch.equal(found[name], want[name]) for name in want)
