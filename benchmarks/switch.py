"""Tasks that take turns on one live ResNet-18 of 11.7 million weights: milliseconds of `tombola.switch`.

    python benchmarks/switch.py [--rounds 15] [--json]

`first`: the first task, for which the backbone's hashes are read. `task`: from one task to another, masks of half of
the weights and heads of 10 and 100 classes. `revert`: back to the backbone, and `again`: from there to a task.
`load_state_dict`: one whole network after the other, both in memory, in the place of `task`. CPU time of one thread.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torchvision.models import resnet18

from record import Record
from tombola.mask import Mask
from tombola.parameters import prunable
from tombola.ticket.origin import Origin
from tombola.ticket.switch import switch
from tombola.ticket.ticket import Ticket


def task(backbone: nn.Module, classes: int, seed: int) -> Ticket:
    """Half of all weights but the head's, at random, and a new head."""
    draw = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(backbone)
    model.fc = nn.Linear(512, classes)
    keep = {name: torch.rand(weight.shape, generator=draw) < 0.5 for name, weight in prunable(model).items()}
    keep.pop("fc.weight")
    whole = Ticket(origin=Origin.stored(model), mask=Mask(keep))
    return whole.on_base(backbone)


def cpu(run: Callable[[], object]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object of all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = resnet18().eval()
    tasks = [task(model, classes, seed) for seed, classes in enumerate((10, 100))]
    states = [copy.deepcopy(model.state_dict()) for _ in tasks]
    other = copy.deepcopy(model)
    record = Record("switch", threads=1, rounds=options.rounds)
    print(record.head())
    warm = nn.Linear(8, 8)  # the loops are compiled by it
    kept = Mask({"weight": torch.eye(8) > 0})
    switch(warm, Ticket(origin=Origin.stored(warm), mask=kept).on_base(warm))
    seconds: dict[str, list[float]] = {"first": [cpu(lambda: switch(model, tasks[0]))]}
    for number in range(1, options.rounds + 1):
        one, two = tasks[number % 2], tasks[(number + 1) % 2]
        round_ = {
            "task": lambda one=one: switch(model, one),
            "revert": lambda: switch(model, None),
            "again": lambda two=two: switch(model, two),
            "load_state_dict": lambda state=states[number % 2]: other.load_state_dict(state),
        }
        for name, run in round_.items():
            seconds.setdefault(name, []).append(cpu(run))
    switch(model, None)
    same = all(torch.equal(value, states[0][name]) for name, value in model.state_dict().items())
    assert same, "the backbone's bits are not back"
    row = {name: round(1e3 * statistics.median(times), 2) for name, times in seconds.items()}
    size = {"task_bytes": len(tasks[0].to_bytes()), "backbone_bytes": sum(v.nbytes for v in states[0].values())}
    record.rows.append({"network": "resnet18", "ms": row, **size})
    record.figures |= row
    for name, value in row.items():
        print(f"{name:>16}  {value:8.2f} ms")
    print(f"{size['task_bytes']:,} bytes a task, {size['backbone_bytes']:,} the backbone")
    record.finish(options.json)


if __name__ == "__main__":
    main()
