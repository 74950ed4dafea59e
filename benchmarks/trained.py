"""Networks that others trained, pruned in one shot and trained on: what they score and what their files take.

    python benchmarks/trained.py crepe-tiny [--densities 0.5,0.2,0.1] [--criteria magnitude,wanda,sparse_gpt]
        [--steps 300] [--out FOLDER]

Every row is written as it comes, and found again by the next call. Needs the packages that trained_tasks.py names.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import tombola as tb
from record import processor, versions
from trained_tasks import TASKS, Task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--densities", default="0.5,0.2,0.1")
    parser.add_argument("--criteria", default="magnitude,wanda,sparse_gpt")
    parser.add_argument("--steps", type=int, default=0, help="of training on, of the best of each density")
    parser.add_argument("--out", type=Path, default=Path("docs/results/trained"))
    given = parser.parse_args()
    task = TASKS[given.task]()
    rows = Rows(given.out / f"{given.task}.json", task)
    rows.row("dense", lambda: {"score": task.score(task.model)} | checkpoint(task.model))
    for density in map(float, given.densities.split(",")):
        for criterion in given.criteria.split(","):
            rows.row(f"{density} {criterion}", lambda d=density, c=criterion: one_shot(task, d, c))
        if given.steps and task.loss is not None:
            best = max(given.criteria.split(","), key=lambda c: rows.rows[f"{density} {c}"]["score"])
            name = f"{density} {best}, {given.steps} steps"
            rows.row(name, lambda d=density, c=best: trained_on(task, d, c, given.steps))


class Rows:
    """The file of a task's rows; those that are there are not measured again."""

    def __init__(self, path: Path, task: Task) -> None:
        self.path, self.task = path, task
        self.rows: dict[str, dict[str, Any]] = json.loads(path.read_text())["rows"] if path.is_file() else {}

    def row(self, name: str, measure: Any) -> None:
        if name not in self.rows:
            begin = time.perf_counter()
            self.rows[name] = measure() | {"seconds": round(time.perf_counter() - begin, 1)}
            weights = sum(p.numel() for p in self.task.model.parameters())
            about = {"task": self.task.name, "unit": self.task.unit, "parameters": weights}
            about |= {"processor": processor(), "threads": torch.get_num_threads(), "versions": versions()}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(about | {"rows": self.rows}, indent=1) + "\n")
        print(f"{name:32}", "  ".join(f"{key} {value:,}" for key, value in self.rows[name].items()), flush=True)


def one_shot(task: Task, density: float, criterion: str) -> dict[str, Any]:
    pruned = tb.prune(task.model, task.calibration, density=density, criterion=criterion, norms=task.norms)
    return {"score": task.score(pruned.model)} | files(task, pruned.model)


def trained_on(task: Task, density: float, criterion: str, steps: int) -> dict[str, Any]:
    """Masks held, Adam, the learning rate falling to 0 by a cosine; norms' statistics as they stand."""
    assert task.loss is not None
    pruned = tb.prune(task.model, task.calibration, density=density, criterion=criterion, norms=task.norms)
    model, draw = pruned.model, torch.Generator().manual_seed(7)
    optimizer = torch.optim.Adam(model.parameters(), task.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: 0.5 * (1 + math.cos(math.pi * at / steps)))
    with tb.hold(model, pruned.mask):
        for _ in range(steps):
            optimizer.zero_grad()
            task.loss(model, draw).backward()
            optimizer.step()
            schedule.step()
    return {"score": task.score(model)} | files(task, model)


def files(task: Task, model: nn.Module) -> dict[str, Any]:
    """Bytes of its checkpoint, and of its ticket with each kind of values; what it scores with values in int8.

    `bound`: of each tensor the entropy of its mask, and its nonzero values as they are.
    """
    found: dict[str, Any] = checkpoint(model)
    ticket = tb.pack(model)
    with tempfile.TemporaryDirectory() as folder:
        for values in ("float32", "float16", "int8"):
            path = Path(folder) / f"{values}.ticket"
            ticket.save(path, None if values == "float32" else values)
            found[f"ticket_{values}"] = path.stat().st_size
        found["score_int8"] = task.score(tb.Ticket.load(path).build(model=task.model).eval())
    return found | {"bound": bound(model)}


def checkpoint(model: nn.Module) -> dict[str, int]:
    """Bytes of its checkpoint, plain and compressed."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    plain = buffer.getvalue()
    found = {"pth": len(plain), "gzip": len(gzip.compress(plain, 6))}
    try:
        import zstandard
    except ImportError:
        pass
    else:
        found["zstd"] = len(zstandard.compress(plain, 3))
    return found


def bound(model: nn.Module) -> int:
    """Bytes: of each tensor the entropy of its mask, and its nonzero values at 32 bits; everything else whole."""
    total = 0.0
    for tensor in model.state_dict().values():
        size, kept = tensor.numel(), int((tensor != 0).sum())
        if not tensor.is_floating_point() or tensor.dim() < 2 or kept in (0, size):
            total += 8 * tensor.nbytes
        else:
            share = kept / size
            entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
            total += size * entropy + kept * 8 * tensor.element_size()
    return math.ceil(total / 8)


if __name__ == "__main__":
    main()
