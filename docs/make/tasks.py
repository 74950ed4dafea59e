"""docs/tasks.md: tasks as masks on one backbone, beside their baselines; and how fast they take turns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pages import Claim, Table
from results import difference, ends, number, points, record, spread

PAGE = "docs/tasks.md"
MASK, FROZEN, RANDOM, HEAD, TUNED = "mask", "70 % frozen", "random mask", "linear head", "fine-tuned"
ARMS = {
    MASK: "mask, half kept",
    FROZEN: "the same, 70 % of it frozen",
    RANDOM: "random mask, half kept",
    HEAD: "linear head alone",
    TUNED: "fine-tuned",
}
PAIRS = ((MASK, TUNED), (MASK, HEAD), (MASK, RANDOM), (FROZEN, MASK))
SETTINGS = ("mnist", "crepe")
TURNS = {
    "first": "the first task, hashes read",
    "task": "from one task to another",
    "revert": "back to the backbone",
    "again": "from there to a task",
    "load_state_dict": "`load_state_dict` of a whole network in memory",
}


def tasks_of(setting: str) -> Any:
    """task -> arm -> its accuracies and bytes; tasks of which every arm is measured."""
    tasks = record("task-masks", f"{setting}.json")["tasks"]
    return {task: arms for task, arms in tasks.items() if arms.keys() == ARMS.keys()}


def own_head(arm: str) -> list[float]:
    """Accuracies of an arm on digits, where the head has a learning rate of its own."""
    found: list[float] = record("task-masks", "mnist-head.json")["tasks"]["digits"][arm]["accuracy"]
    return found


def accuracies(setting: str, task: str, arm: str) -> list[float]:
    found: list[float] = tasks_of(setting)[task][arm]["accuracy"]
    return found


def tables() -> Iterator[Table]:
    for setting in SETTINGS:
        tasks = tasks_of(setting)
        rows = [("", "bytes a task", *tasks)]
        for arm, name in ARMS.items():
            sizes = sorted({found[arm]["bytes"] for found in tasks.values()})
            size = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
            rows.append((name, size, *(spread(accuracies(setting, task, arm)) for task in tasks)))
        yield Table(f"tasks/{setting}", rows)
        rows = [("points", *tasks)]
        for one, other in PAIRS:
            pairs = [(accuracies(setting, task, one), accuracies(setting, task, other)) for task in tasks]
            cells = [f"{points(*pair)} ({ends(difference(*pair))})" for pair in pairs]
            rows.append((f"{one} - {other}", *cells))
        yield Table(f"tasks/{setting}-differences", rows)
    pairs = [(own_head(arm), accuracies("mnist", "digits", arm)) for arm in (MASK, FROZEN)]
    (mask, tied), (frozen, tied_frozen) = pairs
    sides = [(tied_frozen, tied), (frozen, mask), *pairs]
    below = [f"{points(*pair)} ({ends(difference(*pair))})" for pair in sides]
    yield Table(
        "tasks/head-rate",
        [
            ("digits", "one rate for scores and head", "the head ten times faster", "difference"),
            (ARMS[MASK], spread(tied), spread(mask), below[2]),
            (ARMS[FROZEN], spread(tied_frozen), spread(frozen), below[3]),
            ("difference", below[0], below[1], ""),
        ],
    )
    found = record("benchmarks", "amd-epyc/switch.json")["rows"][0]["ms"]
    yield Table("tasks/switch", [("ResNet-18", "ms"), *((name, number(found[key], 1)) for key, name in TURNS.items())])


def claims() -> Iterator[Claim]:
    def beats(setting: str, one: str, other: str) -> list[bool]:
        """Of each task whether one arm is above the other by more than chance."""
        found = [
            difference(accuracies(setting, task, one), accuracies(setting, task, other)) for task in tasks_of(setting)
        ]
        return [each.interval is not None and each.interval[0] > 0 for each in found]

    yield Claim(
        PAGE,
        "On all three tasks the mask is above the linear head and above a random mask",
        {},
        all((*beats("mnist", MASK, HEAD), *beats("mnist", MASK, RANDOM))),
    )
    part = [found[TUNED]["bytes"] / found[MASK]["bytes"] for found in tasks_of("mnist").values()]
    yield Claim(
        PAGE,
        "its file is {least} to {most} times smaller than the fine-tuned network",
        {"least": number(min(part), 0), "most": number(max(part), 0)},
    )
    digits, permuted, parity = beats("mnist", TUNED, MASK)
    yield Claim(PAGE, "which at this length is no better on the two tasks of ten classes", {}, not (digits or permuted))
    masks = [
        (found[MASK]["bytes"] - found[HEAD]["bytes"]) / (found[FROZEN]["bytes"] - found[HEAD]["bytes"])
        for found in tasks_of("mnist").values()
    ]
    times = number(min(masks), 1)
    yield Claim(PAGE, "makes the file, but for its head, {times} times smaller", {"times": times})
    digits, permuted, parity = beats("mnist", MASK, FROZEN)
    yield Claim(
        PAGE,
        "on the tasks of ten classes the accuracy is lower by more than chance; on parity the interval includes 0",
        {},
        digits and permuted and not parity,
    )
    tied, own = accuracies("mnist", "digits", MASK), own_head(FROZEN)
    gains = [difference(own_head(arm), accuracies("mnist", "digits", arm)).difference for arm in (MASK, FROZEN)]
    apart = difference(own, tied).interval
    yield Claim(
        PAGE,
        "both gain, and the frozen mask, at less than half the bytes, is not significantly below the mask at one rate",
        {},
        min(gains) > 0 and apart is not None and apart[0] < 0 < apart[1],
    )
    cost = difference(own_head(MASK), own)
    yield Claim(
        PAGE,
        "what freezing costs stays: {points} points at equal rates",
        {"points": number(100 * cost.difference, 2)},
        cost.interval is not None and cost.interval[0] > 0,
    )
    yield Claim(
        PAGE,
        "The mask is above the random mask on all three tasks, which",
        {},
        all(beats("crepe", MASK, RANDOM)),
    )
    above, below = beats("crepe", MASK, HEAD), beats("crepe", HEAD, MASK)
    yield Claim(
        PAGE,
        "the linear head on waveforms, of which pitches say least. On the other two no difference from the head alone "
        "is significant",
        {},
        above == [True, False, False] and not any(below),
    )
    share = max(found[HEAD]["bytes"] / found[MASK]["bytes"] for found in tasks_of("crepe").values())
    yield Claim(PAGE, "which takes a sixth of the bytes or less", {}, share <= 1 / 5.9)
