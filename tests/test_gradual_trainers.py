"""Gradual pruning in real trainers of Lightning and Hugging Face: the bare loop's bits, checkpoints, accumulation."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import tombola as tb
from tombola.errors import TombolaError

SCHEDULE = tb.Cubic(begin=1, end=9, frequency=2)
STEPS = 12


class Killed(Exception):
    """What stands for a kill."""


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def examples(count: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(count, 6, generator=draw), torch.arange(count) % 3


def by_hand(parts: int = 1) -> tuple[tb.Mask, dict[str, Tensor], list[tb.Mask]]:
    """The bare loop over batches of 4: the last mask and weights, and the mask after every step."""
    model, masks = network(), []
    pruner = tb.Gradual(model, density=0.25, schedule=SCHEDULE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    x, y = examples(4 * STEPS * parts)
    for number, (a, b) in enumerate(zip(x.split(4), y.split(4), strict=True), 1):
        (F.cross_entropy(model(a), b) / parts).backward()
        if number % parts == 0:
            optimizer.step()
            optimizer.zero_grad()
            pruner.step(optimizer)
            masks.append(pruner.mask)
    return pruner.finish(), model.state_dict(), masks


def check_equal(model: nn.Module, pruner: tb.Gradual, parts: int = 1) -> None:
    mask, state, _ = by_hand(parts)
    assert pruner.steps == STEPS
    assert pruner.mask == mask == tb.Mask.from_zeros(model)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# ---- Lightning -----------------------------------------------------------------------------------------------


def lightning_run(
    package: str, folder: Path, *, parts: int = 1, kill_at: int | None = None, resume: Path | None = None
) -> tuple[nn.Module, tb.Gradual]:
    """Trained by Lightning; a checkpoint every 2 steps."""
    lightning: Any = pytest.importorskip(package)

    class Task(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: list[Tensor], number: int) -> Tensor:
            if kill_at is not None and self.trainer.global_step == kill_at:
                raise Killed
            mine = slice(4 * number, 4 * number + 4)  # Lightning begins its loaders anew, but counts on
            return F.cross_entropy(self.net(x[mine]), y[mine])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.net.parameters(), lr=0.05)

    x, y = examples(4 * STEPS * parts)
    task = Task()
    pruner = tb.Gradual(task.net, density=0.25, schedule=SCHEDULE)
    saving = lightning.callbacks.ModelCheckpoint(folder, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    trainer = lightning.Trainer(
        max_epochs=1,
        accumulate_grad_batches=parts,
        callbacks=[saving, pruner.lightning()],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, DataLoader(TensorDataset(x, y), batch_size=4), ckpt_path=resume)
    return task.net, pruner


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
@pytest.mark.parametrize("parts", [1, 3])
def test_lightning_gives_the_bits_of_the_bare_loop(package: str, parts: int, tmp_path: Path) -> None:
    check_equal(*lightning_run(package, tmp_path, parts=parts), parts)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint:UserWarning")
@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning_killed_and_resumed_ends_with_the_same_bits(package: str, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        lightning_run(package, tmp_path, kill_at=5)
    saved = torch.load(tmp_path / "step=4.ckpt", weights_only=True)["callbacks"]["tombola.Gradual"]
    assert saved["steps"] == 4
    check_equal(*lightning_run(package, tmp_path / "again", resume=tmp_path / "step=4.ckpt"))


def test_lightning_with_another_module_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("lightning.pytorch")
    callback = tb.Gradual(network(), 0.5).lightning()
    with pytest.raises(TombolaError, match="the module in training is not"):
        callback.on_train_start(None, network())


def test_callbacks_survive_pickling_with_their_model() -> None:
    pytest.importorskip("lightning.pytorch")
    pytest.importorskip("transformers")
    pruner = tb.Gradual(network(), 0.5)
    for callback in (pruner.lightning(), pruner.transformers()):
        model, again = pickle.loads(pickle.dumps((pruner.model, callback)))
        assert again.pruner.model is model
        again.pruner.step()
        with torch.no_grad():
            model[0].weight.fill_(1.0)
        model(torch.ones(1, 6))
        assert torch.equal(model[0].weight != 0, pruner.mask["0.weight"])


def in_a_spawned_process(rank: int, callback: Any) -> None:
    callback.pruner.step()


@pytest.mark.slow
def test_it_passes_to_processes_that_lightning_spawns() -> None:
    pytest.importorskip("lightning.pytorch")
    torch.multiprocessing.spawn(in_a_spawned_process, (tb.Gradual(network(), 0.5).lightning(),), 1)  # type: ignore[attr-defined]


# ---- Hugging Face --------------------------------------------------------------------------------------------


class Task(nn.Module):
    """As the Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def trainer_run(
    folder: Path, *, parts: int = 1, kill_at: int | None = None, resume: str | None = None, **settings: Any
) -> tuple[nn.Module, tb.Gradual]:
    """Trained by the Trainer; a checkpoint every 4 steps."""
    transformers: Any = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Kill(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if state.global_step == kill_at:
                raise Killed

    class InOrder(transformers.Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    x, y = examples(4 * STEPS * parts)
    task = Task()
    pruner = tb.Gradual(task.net, density=0.25, schedule=SCHEDULE)
    trainer = InOrder(
        task,
        transformers.TrainingArguments(
            str(folder),
            per_device_train_batch_size=4,
            gradient_accumulation_steps=parts,
            num_train_epochs=1,
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
            save_steps=4,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            **settings,
        ),
        train_dataset=[{"x": a, "labels": b} for a, b in zip(x, y, strict=True)],
        callbacks=[pruner.transformers(), Kill()],
        optimizers=(torch.optim.AdamW(task.parameters(), lr=0.05), None),
    )
    trainer.train(resume_from_checkpoint=resume)
    return task.net, pruner


@pytest.mark.parametrize("parts", [1, 3])
def test_the_trainer_gives_the_bits_of_the_bare_loop(parts: int, tmp_path: Path) -> None:
    check_equal(*trainer_run(tmp_path, parts=parts), parts)


@pytest.mark.parametrize("restore", [False, True])
def test_the_trainer_killed_and_resumed_ends_with_the_same_bits(restore: bool, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        trainer_run(tmp_path, kill_at=10)
    moved = (tmp_path / "checkpoint-8").rename(tmp_path / "moved")
    state = json.loads((moved / "trainer_state.json").read_text())["stateful_callbacks"]["tombola.Gradual"]
    assert state["attributes"]["at"] == 7  # the last pruning before step 8
    settings = {"restore_callback_states_from_checkpoint": restore}
    check_equal(*trainer_run(tmp_path, resume=str(moved), **settings))


def test_the_trainer_s_checkpoint_without_it_is_one_line(tmp_path: Path) -> None:
    trainer_run(tmp_path)
    file = tmp_path / "checkpoint-4" / "trainer_state.json"
    state = json.loads(file.read_text())
    del state["stateful_callbacks"]["tombola.Gradual"]
    file.write_text(json.dumps(state))
    with pytest.raises(TombolaError, match="step 4 was written without this Gradual"):
        trainer_run(tmp_path, resume=str(file.parent))


def test_gpt2_is_pruned_in_the_trainer_and_tied_embeddings_stay_whole(tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0)
    )
    assert all(".h." in name for name in tb.prunable(model))
    assert len(tb.prunable(model)) == 4
    pruner = tb.Gradual(model, schedule=tb.Cubic(end=4, frequency=1), pattern="2:4")
    tokens = torch.randint(20, (24, 8), generator=torch.Generator().manual_seed(0))
    arguments = transformers.TrainingArguments(
        str(tmp_path), per_device_train_batch_size=4, num_train_epochs=1, save_strategy="no", report_to=[],
        use_cpu=True, disable_tqdm=True, learning_rate=0.01,
    )  # fmt: skip
    data = [{"input_ids": one, "labels": one} for one in tokens]
    transformers.Trainer(model, arguments, train_dataset=data, callbacks=[pruner.transformers()]).train()
    mask = pruner.finish()
    assert tb.Mask.from_zeros(model) == mask
    for name, keep in mask.items():
        assert keep.view(-1, 4, keep.shape[1]).sum(1).eq(2).all(), name
    assert model.transformer.wte.weight.all()
    assert model.lm_head.weight is model.transformer.wte.weight
