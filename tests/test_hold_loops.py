"""Held masks in training loops that are not ours: Lightning's and Hugging Face's, with clipping and weight decay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tombola as tb
from tombola.mask import Mask


class Task(nn.Module):
    """A network under a held mask, that notes in each forward pass whether pruned weights are 0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
        self.exact: list[bool] = []

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(x)
        self.exact.append(is_pruned(self.net, MASK))
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def examples(n: int = 24) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(n, 5, generator=draw), torch.randint(3, (n,), generator=draw)
    return [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]


def is_pruned(net: nn.Module, mask: Mask) -> bool:
    return all(not net.get_parameter(name)[~keep].any() for name, keep in mask.items())


MASK = tb.select({name: weight.detach().abs() for name, weight in tb.prunable(Task().net).items()}, density=0.4)


def check(task: Task, steps: int) -> None:
    """What was pruned is 0 throughout and at the end; every kept weight has learned."""
    start = Task().net
    assert task.exact == [True] * len(task.exact)
    assert len(task.exact) >= steps
    assert is_pruned(task.net, MASK)
    for name, keep in MASK.items():
        assert (task.net.get_parameter(name) != start.get_parameter(name))[keep].float().mean() > 0.8


def test_lightning_trains_what_is_kept(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.task = Task()

        def training_step(self, batch: dict[str, Tensor]) -> Tensor:
            return self.task(**batch)["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=0.1)

    module = Module()
    trainer = lightning.Trainer(
        max_epochs=2,
        accumulate_grad_batches=2,
        gradient_clip_val=0.5,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    with tb.hold(module.task.net, MASK):
        trainer.fit(module, torch.utils.data.DataLoader(examples(), batch_size=4))
    assert trainer.global_step == 6
    check(module.task, steps=12)


def test_transformers_trains_what_is_kept(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    task = Task()
    trainer = transformers.Trainer(
        task,
        transformers.TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=4,
            num_train_epochs=2,
            learning_rate=0.05,
            weight_decay=0.1,
            max_grad_norm=0.5,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=examples(),
    )
    with tb.hold(task.net, MASK):
        trainer.train()
    assert trainer.state.global_step == 12
    check(task, steps=12)
