"""The three numbers that the README opens with."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from mnist import above_dense, density, shown, versus
from pages import Claim, Table
from results import arm, ends, number, sign
from speed import FULL, digits, rows

PAGE = "README.md"
ENGINES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "eager": "PyTorch", "channels-last": "PyTorch"}


def tables() -> Iterator[Table]:
    yield from ()


def claims() -> Iterator[Claim]:
    yield ticket()
    yield supermask()
    yield deployed()


def ticket() -> Claim:
    gain, reinit = above_dense(15), versus("reinit", 15, "ticket", 15)
    return Claim(
        PAGE,
        "**{gain} points of test accuracy with {density} of the weights.** LeNet-300-100 on MNIST, a ticket against "
        "the dense network, five searches (95 % interval: {ends}). The same mask on other initial weights: {reinit} "
        "points against the ticket.",
        {
            "gain": shown(gain),
            "density": density(15, 1),
            "ends": ends(gain),
            "reinit": shown(reinit),
        },
        sign(gain) > 0 and sign(reinit) < 0,
    )


def supermask() -> Claim:
    masked, trained = (fmean(arm("mnist-supermasks", name)) for name in ("edge-popup 50", "weights only"))
    return Claim(
        PAGE,
        "**{masked} % test accuracy without training a weight.** Edge-popup keeps half of the random weights of the "
        "same network; training all weights instead gives {trained} %.",
        {"masked": number(100 * masked, 1), "trained": number(100 * trained, 1)},
        trained - 0.01 < masked < trained,
    )


def deployed() -> Claim:
    row = next(
        row
        for row in rows("intel-xeon", "inference")
        if (row["network"], row["batch"], row["case"]) == ("conv-6", 64, "90")
    )
    fastest = min((name for name in FULL if name in row["ms"]), key=row["ms"].__getitem__)
    return Claim(
        PAGE,
        "**{times} times as fast.** Conv-6 with 90 % zeros, batch 64, two threads of an Intel Xeon: {ours} ms against "
        f"{{theirs}} ms of the fastest float32 engine ({ENGINES[fastest]}). In bfloat16, on that processor's matrix "
        "unit, OpenVINO takes {rounded} ms.",
        {
            "times": number(row["ratio"]["median"], 1),
            "ours": digits(row["ms"]["deployed"]),
            "theirs": digits(row["ms"][fastest]),
            "rounded": digits(row["ms"]["openvino-default"]),
        },
        row["baseline"] == fastest and row["ratio"]["steady"],
    )
