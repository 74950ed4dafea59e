"""The fixed set of tiny searches that `compare_commits.py` runs in each commit, and what it keeps of them.

    PYTHONPATH=src python tools/fixed_searches.py FOLDER

It asks only what stays when the code is rearranged: the commands, the names of `tombola` itself, and the files of a
run. What depends on the clock or on a folder's name is left out: seconds, rates, and the hash in a run's name.
FOLDER/kept.json maps each search to what it gave; a search that failed is kept with its error.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import tombola as tb

DIGITS = "--model lenet-300-100 --data digits"
MLP = "--model mlp --data digits"
CONV = "--model conv-2 --model_args.width 0.125 --data digits"
NORMS = "--model resnet-20 --data digits --batch_size 32"
SHORT = "--length 30it --eval_every 10it"
SGD = "--optimizer sgd --lr 0.1 --schedule cosine"

COMMANDS = {
    "imp, per layer": f"find imp {DIGITS} --density 0.1 --rounds 2 {SHORT}",
    "imp, global, rewound to a step": f"find imp {MLP} --scope global --levels 2 --rewind 7it {SHORT}",
    "imp, learning rate rewound": f"find imp {MLP} --levels 2 --rewind lr {SGD} --warmup 5it {SHORT}",
    "imp, channels": f"find imp {CONV} --pattern channel --density 0.5 --rounds 1 --length 12it",
    "imp, blocks, movement": f"find imp {MLP} --pattern block:4 --criterion movement --density 0.2 --rounds 1 {SHORT}",
    "imp, 2:4": f"find imp {MLP} --pattern 2:4 --rounds 1 {SHORT}",
    "imp, random, biases": f"find imp {MLP} --criterion random --include *.bias --levels 1 {SHORT}",
    "imp, snip at once": f"find imp {MLP} --criterion snip --density 0.2 --rounds 1 {SHORT}",
    "imp, norms": f"find imp {NORMS} --levels 1 --length 4it --optimizer sgd --lr 0.03 --weight_decay 1e-4",
    "imp, two replicates": f"find imp {MLP} --levels 1 --replicates 2 --label_smoothing 0.1 --clip_norm 1.0 {SHORT}",
    "imp, from a ticket": f"find imp --start {{imp, per layer}} --levels 1 {SHORT}",
    "dense": f"find dense {CONV} --accumulate 2 --length 12it",
    "edge-popup": f"find edge-popup {DIGITS} --density 0.5 {SGD} {SHORT}",
    "edge-popup, global": f"find edge-popup {MLP} --scope global --density 0.2 --anneal 20it --scale_fan {SHORT}",
    "edge-popup, 2:4": f"find edge-popup {MLP} --pattern 2:4 {SHORT}",
    "edge-popup, norms": f"find edge-popup {NORMS} --train_norms --density 0.3 --length 4it",
    "iterand": f"find iterand {MLP} --density 0.4 --every 10it {SHORT}",
    "multicoat": f"find multicoat {MLP} --densities [0.5,0.2] {SHORT}",
    "gem-miner": f"find gem-miner {MLP} --density 0.1 --freeze_every 10it --finetune 10it {SHORT}",
    "concrete": f"find concrete {MLP} --density 0.1 --rewind 10it --search 10it {SHORT}",
    "concrete, task": f"find concrete {CONV} --density 0.2 --search 8it --loss task --length 8it",
    "continuous": f"find continuous {MLP} --rounds 2 --rewind 10it --logit 0.01 {SHORT}",
    "signed-supermask": f"find signed-supermask {MLP} {SHORT}",
    "learned-mask, bernoulli": f"find learned-mask {MLP} --rescale --weights signed_constant --mask_decay 1e-5 {SHORT}",
    "learned-mask, threshold": f"find learned-mask {MLP} --rule threshold --finetune 10it {SHORT}",
    "joint": f"find joint {MLP} --density 0.3 --weights_first 10it --freeze_scores 0.2 {SHORT}",
    "joint, 2:4, sr-ste": f"find joint {MLP} --pattern 2:4 --weight_gradient sr-ste {SGD} {SHORT}",
    "joint, binary": f"find joint {CONV} --weights binary --activations binary --length 8it",
    "multi-prize": f"find multi-prize {MLP} --density 0.3 {SGD} {SHORT}",
    "multi-prize, binary, tuned": f"find multi-prize {CONV} --activations binary --norms tuned --tune 5it --length 8it",
    "binary-weights": f"find binary-weights {CONV} --activations binary --length 8it",
    "info": "info {imp, per layer}",
    "verify": "verify {imp, per layer} --replicates 3",
    "verify, multi-prize": "verify {multi-prize} --replicates 2",
    "curve": f"study curve imp {MLP} --levels 2 --replicates 2 {SHORT}",
    "compare": f"study compare --arms arms.yaml {MLP} --replicates 2 {SHORT}",
    "study mask-init": f"study mask-init {MLP} --replicates 2 --length 20it --eval_every 10it",
    "study joint": f"study joint {MLP} --densities [0.5] --replicates 1 {SHORT}",
    "study binary": f"study binary {MLP} --densities [0.5] --replicates 1 {SHORT}",
    "study overlap": f"study overlap {MLP} --replicates 2 --imp {{rounds: 1}} {SHORT}",
}
"""Name of a search -> its words; {name} stands for the ticket of another search."""

ARMS = [
    {"name": "weights only", "method": "dense"},
    {"name": "edge-popup", "method": "edge-popup", "options": {"density": 0.5}, "recipe": {"lr": 0.1}},
    {"name": "joint", "method": "joint", "options": {"pattern": "2:4"}, "density": 0.5},
]


# -- what is kept


def digest(tensor: Tensor) -> str:
    """Shape, type and a hash of a tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return f"{tuple(tensor.shape)} {tensor.dtype} {hashlib.sha256(raw).hexdigest()[:16]}"


def digests(tensors: Any) -> dict[str, str]:
    return {name: digest(tensor) for name, tensor in tensors.items()}


def of_ticket(ticket: tb.Ticket, model: nn.Module | None = None) -> dict[str, Any]:
    return {
        "mask": digests(ticket.mask),
        "final": digests(ticket.build(model=model).state_dict()),
        "origin": digests(ticket.build("origin", model=model).state_dict()),
    }


def of_metrics(path: Path) -> dict[str, list[str]]:
    """Column -> its values, as they are written; without the seconds."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ()) if not timed(name)}


def timed(key: str) -> bool:
    return "seconds" in key or key in ("energy_joules", "started", "finished", "tombola", "schema", "format")


def plain(value: Any) -> Any:
    """JSON without times, and without the hashes in the names of runs."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if not timed(key)}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return re.sub(r"-[0-9a-f]{10}(?![0-9a-f])", "", value) if isinstance(value, str) else value


# -- the searches


def command(words: list[str]) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `tombola` with these words, in this process: torch is imported once."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["tombola", *words]
    status: int | str | None = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_module("tombola", run_name="__main__")
    except SystemExit as end:
        status = end.code
    finally:
        sys.argv = argv
    return int(status or 0), out.getvalue(), err.getvalue()


def split(line: str) -> list[str]:
    """The words of a command; spaces within brackets do not part."""
    return re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|\S)+", line)


def run_command(name: str, tickets: dict[str, str]) -> dict[str, Any]:
    words = split(COMMANDS[name])
    words = [tickets[word[1:-1]] if word[1:-1] in COMMANDS else word for word in words]
    out = Path("runs", re.sub(r"\W+", "-", name))
    if words[0] != "info":
        words += ["--out", str(out), "--threads", "1"]
    status, stdout, stderr = command([*words, "--json"])
    if status:
        return {"error": f"status {status}: {' '.join(stderr.split())[:300]}"}
    answer = json.loads(stdout.splitlines()[-1])
    if isinstance(answer.get("ticket"), str):
        tickets[name] = answer["ticket"]
    files: dict[str, Any] = {}
    for path in sorted(out.rglob("metrics.csv")):
        files[plain(str(path.relative_to(out)))] = of_metrics(path)
    for path in sorted(out.rglob("*.ticket")):
        files[plain(str(path.relative_to(out)))] = of_ticket(tb.Ticket.load(path))
    return {"json": plain(answer), "files": files}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, after: Callable[[], Any]) -> list[str]:
    """The losses of a bare loop, to the bit."""
    draw = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(10):
        x, y = torch.rand(32, 1, 8, 8, generator=draw), torch.randint(10, (32,), generator=draw)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        after()
        losses.append(loss.item().hex())
    return losses


def api_find() -> dict[str, Any]:
    """A live module, with a method as an object and as the preset's mapping."""
    kept = {}
    for name, method in (("imp", tb.IterativePruning(density=0.2, rounds=1)), ("joint", tb.Joint(density=0.5))):
        ticket = tb.find(network(), "digits", method, recipe={"length": "20it"}, options=tb.Options(threads=1))
        kept[name] = of_ticket(ticket, network())
    return kept


def api_hold() -> dict[str, Any]:
    model = network()
    mask = tb.select({name: w.abs() for name, w in tb.prunable(model).items()}, density=0.2, scope="global")
    with tb.hold(model, mask):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        losses = steps(model, optimizer, lambda: None)
    return {"losses": losses, "mask": digests(mask), "state": digests(model.state_dict())}


def api_attach() -> dict[str, Any]:
    model = network()
    groups = tb.attach(model, tb.TopK(density=0.3))
    losses = steps(model, torch.optim.SGD(groups.scores, lr=0.1, momentum=0.9), lambda: tb.refresh(model))
    mask = tb.make_permanent(model)
    return {"losses": losses, "mask": digests(mask), "state": digests(model.state_dict())}


IN_PYTHON = {"find, in Python": api_find, "hold, in Python": api_hold, "attach, in Python": api_attach}


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the fixed searches in FOLDER, which must be empty.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="a regular expression for the names of the searches to run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(args.folder)
    Path("arms.yaml").write_text(json.dumps(ARMS), encoding="utf-8")
    kept: dict[str, Any] = {}
    tickets: dict[str, str] = {}
    for name in [*COMMANDS, *IN_PYTHON]:
        if not re.search(args.only, name):
            continue
        try:
            kept[name] = run_command(name, tickets) if name in COMMANDS else IN_PYTHON[name]()
        except Exception as error:  # kept beside the other commit's, whatever it is
            last = traceback.extract_tb(error.__traceback__)[-1]
            kept[name] = {"error": f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"}
        print(name, kept[name].get("error", ""), flush=True)
    Path("kept.json").write_text(json.dumps({"package": str(Path(tb.__file__).parent), "searches": kept}))


if __name__ == "__main__":
    main()
