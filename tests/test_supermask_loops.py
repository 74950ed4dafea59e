"""Supermasks in loops that are not ours: bare, Lightning, Hugging Face, DDP, torch.compile and torch.export."""

from __future__ import annotations

import copy
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional as F

from tombola.errors import TombolaError
from tombola.supermask import (
    FROZEN,
    Bernoulli,
    Binary,
    Dense,
    Identity,
    MaskRule,
    Represent,
    SignedConstant,
    TopK,
    WeightRule,
    attach,
    callbacks,
    lightning_callback,
    read,
    refresh,
    transformers_callback,
)
from tombola.supermask.layers import layers


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3))


def examples(seed: int = 0, n: int = 24) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 6, 6, generator=draw), torch.randint(3, (n,), generator=draw)


# ---- a bare loop ---------------------------------------------------------------------------------------------


def test_five_lines() -> None:
    model, (x, y) = network(), examples()
    before = copy.deepcopy(model.state_dict())
    scores, weights = attach(model, TopK(0.3))
    first, optimizer = read(model), torch.optim.SGD(scores, lr=0.5, momentum=0.9)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        refresh(model)
        losses.append(float(loss.detach()))
    assert weights == []
    assert min(losses) < 0.9 * losses[0]
    assert read(model) != first
    assert read(model).counts() == {"0.weight": (round(0.3 * 36), 36), "3.weight": (round(0.3 * 192), 192)}
    for name in ("0", "3"):
        latent = model.get_submodule(name).parametrizations.weight.original  # type: ignore[union-attr]
        assert torch.equal(latent, before[f"{name}.weight"])
        assert torch.equal(model.get_submodule(name).bias, before[f"{name}.bias"])


# ---- Lightning -----------------------------------------------------------------------------------------------


def test_lightning_refreshes_once_per_optimiser_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    events: list[str] = []
    final: list[bool] = []

    class Task(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = network()
            self.scores = attach(self.net, Bernoulli(), scores=1.0).scores

        def training_step(self, batch: list[Tensor]) -> Tensor:
            events.append("forward")
            final.append(not is_final(self))
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: list[Tensor]) -> None:
            events.append("validation")
            final.append(is_final(self))
            self.net(batch[0])

        def optimizer_step(self, *args: Any, **settings: Any) -> None:
            super().optimizer_step(*args, **settings)
            events.append("step")

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.scores, lr=0.1)

    def counted(model: nn.Module) -> None:
        events.append("refresh")
        refresh(model)

    monkeypatch.setattr(callbacks, "refresh", counted)
    task = Task()
    first = read(task)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*examples(n=20)), batch_size=4)
    trainer = lightning.Trainer(
        max_epochs=2,
        accumulate_grad_batches=2,
        num_sanity_val_steps=1,
        callbacks=[lightning_callback()],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(task, loader, loader)
    pair = ["forward", "forward", "step", "refresh"]
    epoch = [*pair, *pair, "forward", "step", "refresh", *["validation"] * 5]  # the fifth batch has no second
    assert events == ["validation", *epoch, *epoch]
    assert events.count("refresh") == trainer.global_step == 6
    assert read(task) != first
    assert final == [True] * (2 * 5 + 11)  # drawn in training, p > 0.5 in validation
    assert not is_final(task)


def test_lightning_callback_survives_pickling() -> None:
    pytest.importorskip("lightning.pytorch")
    callback = lightning_callback()
    assert type(pickle.loads(pickle.dumps(callback))) is type(callback)
    assert type(copy.deepcopy(callback)) is type(callback)


def is_final(model: nn.Module) -> bool:
    return all(torch.equal(layer.supermask.mask, layer.supermask.scores > 0) for layer in layers(model))


# ---- Hugging Face --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_transformers_refreshes_once_per_optimiser_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Task(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            events.append("forward")
            final.append(is_final(self) != self.training)
            logits = self.net(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    def counted(model: nn.Module) -> None:
        events.append("refresh")
        refresh(model)

    events: list[str] = []
    monkeypatch.setattr(callbacks, "refresh", counted)
    final: list[bool] = []
    task = Task()
    scores, _ = attach(task, Bernoulli(), scores=1.0)
    first = read(task)
    x, y = examples(n=20)
    trainer = transformers.Trainer(
        task,
        transformers.TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=4,
            per_device_eval_batch_size=20,
            gradient_accumulation_steps=2,
            num_train_epochs=2,
            eval_strategy="epoch",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=[{"x": a, "labels": b} for a, b in zip(x, y, strict=True)],
        eval_dataset=[{"x": a, "labels": b} for a, b in zip(x, y, strict=True)],
        callbacks=[transformers_callback()],
        optimizers=(torch.optim.SGD(scores, lr=1.0), None),
    )
    trainer.train()
    epoch = ["forward", "forward", "refresh", "forward", "forward", "refresh", "forward", "refresh", "forward"]
    assert events == [*epoch, *epoch]  # the last forward of an epoch is its evaluation
    assert events.count("refresh") == trainer.state.global_step == 6
    assert read(task) != first
    assert final == [True] * len(events[:-6])  # drawn in training, p > 0.5 in evaluation
    assert is_final(task)
    with pytest.raises(TombolaError, match="no supermask"):
        transformers_callback().on_train_begin(trainer.args, trainer.state, trainer.control, model=nn.Linear(2, 2))


# ---- what can be wrong with either ---------------------------------------------------------------------------


def test_callback_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    for make, package, cached in (
        (lightning_callback, "lightning", callbacks._lightning_class),
        (transformers_callback, "transformers", callbacks._transformers_class),
    ):
        cached.cache_clear()
        with pytest.raises(TombolaError, match=f"^{package} is not installed; run pip install {package}$"):
            make()


def test_training_without_supermask_is_refused() -> None:
    pytest.importorskip("lightning.pytorch")
    with pytest.raises(TombolaError, match="no supermask"):
        lightning_callback().on_train_start(None, nn.Linear(2, 2))


# ---- DDP -----------------------------------------------------------------------------------------------------

RULES: dict[str, MaskRule] = {
    "layer": TopK(0.4),
    "global": TopK(0.4, scope="global"),
    "bernoulli": Bernoulli(),
}


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results: dict[str, Tensor] = {}
    for kind, rule in RULES.items():
        model = network(seed=rank)  # DDP makes rank 0's network everyone's, scores and masks included
        scores, _ = attach(model, rule)
        wrapped = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(scores, lr=2.0, momentum=0.9)
        x, y = examples(seed=rank, n=8)
        for step in range(4):
            for name, mask in read(wrapped).items():
                results[f"{kind}/{step}/{name}"] = mask
            F.cross_entropy(wrapped(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            refresh(wrapped)
        for i, score in enumerate(scores):
            results[f"{kind}/scores/{i}"] = score.detach()
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ranks_hold_equal_masks(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)  # type: ignore[attr-defined]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    for kind in RULES:
        assert any(not torch.equal(first[f"{kind}/0/{n}"], first[f"{kind}/3/{n}"]) for n in ("0.weight", "3.weight"))


# ---- torch.compile and torch.export --------------------------------------------------------------------------

SETTINGS: dict[str, tuple[MaskRule, Represent, WeightRule]] = {
    "edge-popup": (TopK(0.5), Identity(), FROZEN),
    "zhou": (Bernoulli(), SignedConstant(rescale=True), FROZEN),
    "binary joint": (TopK(0.3, scope="global"), Binary(), Dense()),
}


def check_compiled(kind: str, backend: str) -> None:
    """Four steps of a compiled model and of an eager copy: equal throughout, and compiled once."""
    rule, represent, weights = SETTINGS[kind]
    plain, (x, y) = network(), examples(n=5)
    attach(plain, rule, represent=represent, weights=weights)
    twin = copy.deepcopy(plain)
    compilations = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        compilations.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)  # type: ignore[no-any-return]

    torch._dynamo.reset()
    compiled = torch.compile(twin, backend=counting, fullgraph=True)
    learning = [[p for p in model.parameters() if p.requires_grad] for model in (plain, twin)]
    optimizers = [torch.optim.SGD(parameters, lr=0.5) for parameters in learning]
    seen = [read(plain)]
    for _ in range(4):
        outputs = [model(x) for model in (plain, compiled)]
        torch.testing.assert_close(*outputs)
        for output in outputs:
            F.cross_entropy(output, y).backward()
        for eager, other in zip(*learning, strict=True):
            torch.testing.assert_close(other.grad, eager.grad)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for model in (plain, compiled):
            refresh(model)
        assert read(compiled) == read(plain)
        seen.append(read(plain))
    assert seen[0] != seen[-1]
    assert len(compilations) == 1


@pytest.mark.parametrize("kind", SETTINGS)
def test_compiled_equals_eager(kind: str) -> None:
    check_compiled(kind, "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_equals_eager() -> None:
    check_compiled("edge-popup", "inductor")


@pytest.mark.parametrize("kind", SETTINGS)
def test_export(kind: str) -> None:
    rule, represent, weights = SETTINGS[kind]
    model, (x, _) = network().eval(), examples(n=5)
    attach(model, rule, represent=represent, weights=weights)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))
