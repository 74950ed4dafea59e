"""Progress: the latest figures beside each bar, from the start on, and nothing of it where nobody watches."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import TextColumn
from torch import nn

from tombola.data.splits import make_splits
from tombola.runs import progress as bars
from tombola.runs.progress import Bars, Silent, show_progress
from tombola.train.loop import train
from tombola.train.recipe import Recipe


class Notes:
    """An update that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[int, str]] = []

    def __call__(self, done: int, figures: object = None) -> None:
        self.said.append((done, figures() if callable(figures) else ""))


def test_each_step_tells_the_loss_since_the_last_evaluation_and_what_that_gave() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    splits = make_splits((x[:32], y[:32]), (x[32:], y[32:]))
    notes = Notes()
    recipe = Recipe(length="8it", batch_size=8, eval_every="4it", lr=0.1)
    trained = train(nn.Linear(3, 2), splits, recipe, update=notes)
    assert [done for done, _ in notes.said] == list(range(1, 9))
    metric = [f"val accuracy {row.val_accuracy:.4g}" for row in trained.history]
    assert [said.rpartition("  ")[2] for _, said in notes.said] == [*[metric[0]] * 3, *[metric[1]] * 4, metric[2]]
    assert notes.said[2][1].startswith("loss 0.")
    assert notes.said[3][1] == metric[1]  # just evaluated: no step since


def test_a_bar_shows_the_figures_and_asks_for_them_only_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "_EVERY", 1000.0)
    screen = io.StringIO()
    asked = []
    columns = (TextColumn("{task.description} {task.completed:.0f} {task.fields[note]}"),)
    with RichProgress(
        *columns, console=Console(file=screen, width=80, force_terminal=True), auto_refresh=False
    ) as rich:
        with Bars(rich).track("level 1", 10) as update:
            for done in range(1, 11):
                update(done, lambda done=done: asked.append(done) or f"loss {done}")  # type: ignore[misc]
            rich.refresh()
            assert "level 1 10 loss 10" in screen.getvalue()
        assert rich.tasks == []
    assert asked == [1, 10]


def test_silence_asks_for_no_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(None) as progress, progress.track("a", 3) as update:
        assert isinstance(progress, Silent)
        update(1, lambda: pytest.fail("asked"))
    assert capsys.readouterr().err == ""


def test_a_terminal_sees_something_before_torch_is_there_and_the_figures_while_it_trains(tmp_path: Path) -> None:
    words = ["find", "dense", "--data", "digits", "--model", "mlp", "--length", "40ep", "--out", str(tmp_path)]
    told, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    child = subprocess.Popen(
        [sys.executable, "-m", "tombola", *words], stderr=theirs, stdout=subprocess.DEVNULL, env=environment
    )
    os.close(theirs)
    seen = b""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if not select.select([told], [], [], 1.0)[0]:
            continue
        try:
            part = os.read(told, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    assert child.wait() == 0
    text = seen.decode()
    assert text.startswith("loading PyTorch ...\r")
    assert "checking that everything fits" in text
    assert "loss " in text
    assert "val accuracy 0." in text
