"""docs/benchmarks.md and docs/deploy.md: what the scripts in benchmarks/ measured, on every processor they ran on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pages import Claim, Table
from results import number, record

XEON, EPYC = "intel-xeon", "amd-epyc"
SHORT = {XEON: "Xeon", EPYC: "EPYC"}
FULL = ("eager", "channels-last", "onnxruntime", "openvino", "dense")
"""Float32 engines; "dense" is what the older records call the fastest of them."""

Row = Mapping[str, Any]


def rows(processor: str, benchmark: str) -> list[Row]:
    found: list[Row] = record("benchmarks", f"{processor}/{benchmark}.json")["rows"]
    return found


def row(processor: str, benchmark: str, **wanted: object) -> Row | None:
    """The row with these values; None where it was not measured there."""
    return next((r for r in rows(processor, benchmark) if all(r.get(k) == v for k, v in wanted.items())), None)


def times(found: Row | None, key: str, quartiles: bool = True) -> str:
    """A ratio, with its quartiles where they are known; a dash where it was not measured or not steady."""
    ratio = None if found is None else found.get(key)
    if ratio is None or ratio.get("steady") is False:
        return "–"
    if not quartiles or "low" not in ratio:
        return digits(ratio["median"])
    return f"{digits(ratio['median'])} ({digits(ratio['low'])}–{digits(ratio['high'])})"


def digits(value: float) -> str:
    """Three digits that count, two after the point at most."""
    return number(value, 2 if value < 9.995 else 1 if value < 99.95 else 0)


def milliseconds(found: Row | None, key: str) -> str:
    value = None if found is None else found["ms"].get(key)
    return "–" if value is None else digits(value)


def fastest(found: Row, reduced: bool = False) -> str:
    """The time of the fastest float32 engine, or of the fastest of those that round to bfloat16 too."""
    if reduced:
        return milliseconds(found, found["baseline_bf16"])
    known = [found["ms"][name] for name in FULL if name in found["ms"]]
    return milliseconds({"ms": {"best": min(known)}}, "best")


NETWORKS = {
    "lenet-300-100": "LeNet-300-100",
    "conv-4": "Conv-4",
    "conv-6": "Conv-6",
    "conv-8": "Conv-8",
    "resnet-18": "ResNet-18",
    "mobilenet-v2": "MobileNetV2",
}
LAYERS = {
    "linear-4096": "Linear 4096x4096",
    "conv-128-16x16": "Conv 3x3, 128 channels, 16x16",
    "conv-256-8x8": "Conv 3x3, 256 channels, 8x8",
}


def zeros(case: str) -> str:
    """90/block:4 -> 90 %, block:4."""
    share, _, kind = case.partition("/")
    return f"{share} %" + (f", {kind}" if kind else "")


def inference_rows() -> Iterator[tuple[str, ...]]:
    yield (
        *("network", "batch", "zeros", "float32, ms", "deployed, ms", "times as fast (quartiles)"),
        *("with bfloat16, ms", "times as fast as that", "on the EPYC"),
    )
    for found in rows(XEON, "inference"):
        about = {key: found[key] for key in ("network", "batch", "case")}
        yield (
            *(NETWORKS[found["network"]], str(found["batch"]), zeros(found["case"]), fastest(found)),
            *(milliseconds(found, "deployed"), times(found, "ratio"), fastest(found, reduced=True)),
            *(times(found, "ratio_bf16"), times(row(EPYC, "inference", **about), "ratio")),
        )


def linear_rows() -> Iterator[tuple[str, ...]]:
    yield (
        *("zeros", "batch", "float32, ms", "sparse, ms", "times as fast", "cold", "with bfloat16, ms"),
        *("times as fast as that", "bits per weight", "bound", "on the EPYC", "cold"),
    )
    for found in rows(XEON, "sparse_linear"):
        other = row(EPYC, "sparse_linear", case=found["case"], batch=found["batch"])
        yield (
            *(zeros(found["case"]), str(found["batch"]), fastest(found), milliseconds(found, "sparse")),
            *(times(found, "ratio"), times(found, "cold_ratio", quartiles=False), fastest(found, reduced=True)),
            times(found, "ratio_bf16"),
            number(8 * found["bytes"] / found["size"] ** 2, 2),
            number(found["over_bound"], 2) if found["batch"] == 1 and "over_bound" in found else "",
            *(times(other, "ratio"), times(other, "cold_ratio")),
        )


def binary_rows() -> Iterator[tuple[str, ...]]:
    yield (
        *("layer", "batch", "float32, ms", "layer", "chain", "with bfloat16, ms", "layer", "chain"),
        *("on the EPYC, layer", "chain"),
    )
    for found in rows(XEON, "binary_layers"):
        other = row(EPYC, "binary_layers", name=found["name"], batch=found["batch"])
        yield (
            *(LAYERS[found["name"]], str(found["batch"]), fastest(found), times(found, "layer"), times(found, "chain")),
            *(fastest(found, reduced=True), times(found, "layer_bf16"), times(found, "chain_bf16")),
            *(times(other, "layer"), times(other, "chain")),
        )


def training_rows() -> Iterator[tuple[str, ...]]:
    yield (
        *("network, batch", "bare, ms", "through Tombola", "masked"),
        *("on the EPYC: bare, ms", "through Tombola", "masked"),
    )
    for found in rows(XEON, "training_step"):
        other = row(EPYC, "training_step", network=found["network"], batch=found["batch"])
        cells = ((milliseconds(one, "bare"), times(one, "dense"), times(one, "masked")) for one in (found, other))
        yield f"{NETWORKS[found['network']]}, {found['batch']}", *(cell for part in cells for cell in part)


def supermask_rows() -> Iterator[tuple[str, ...]]:
    ways = ("edge-popup", "multi-prize", "sort-reference")
    yield (
        *("network, batch", "dense, ms", "edge-popup", "multi-prize", "sorted", "memory"),
        *("on the EPYC: dense, ms", "edge-popup", "multi-prize", "sorted"),
    )
    for found in rows(XEON, "supermask_step"):
        other = row(EPYC, "supermask_step", network=found["network"], batch=found["batch"], threads=2)
        yield (
            f"{NETWORKS[found['network']]}, {found['batch']}",
            milliseconds(found, "dense"),
            *(times(found, way) for way in ways),
            number(found["bytes"]["edge-popup"], 2),
            milliseconds(other, "dense"),
            *(times(other, way) for way in ways),
        )


def selection_rows() -> Iterator[tuple[str, ...]]:
    yield (
        *("scores", "kept", "ms", "times as fast as `torch.sort`", "as `torch.kthvalue`"),
        *("on the EPYC: ms", "`torch.sort`", "`torch.kthvalue`"),
    )
    for found in rows(XEON, "selection"):
        other = row(EPYC, "selection", scores=found["scores"], density=found["density"])
        cells = ((milliseconds(one, "tombola"), times(one, "sort"), times(one, "kthvalue")) for one in (found, other))
        kept = f"{number(100 * found['density'], 0)} %"
        yield number(found["scores"], 0), kept, *(cell for part in cells for cell in part)


TICKETS = {
    "seeded": "seed and mask",
    "trained": "trained, float32",
    "binary": "binary, signs",
    "uneven": "seed and mask of uneven rows and columns",
}


def file_rows() -> Iterator[tuple[str, ...]]:
    head = ("ticket", "beyond the bound, 0.5 % to 99 % kept", "million weights per second in", "out")
    yield *head, "on the EPYC: in", "out"
    for kind, name in TICKETS.items():
        found = [r for r in rows(XEON, "ticket_file") if r.get("ticket") == kind]
        other = row(EPYC, "ticket_file", ticket=kind) or {}
        if kind == "uneven":
            over = [100 * (1 - r["bound"]) for r in found]
            beyond = f"{number(min(over), 0)} to {number(max(over), 0)} % less than the bound"
        else:
            beyond = f"{number(min(r['beyond'] for r in found) / 1000, 1)} to "
            beyond += f"{number(max(r['beyond'] for r in found) / 1000, 1)} KB"
        speeds = [[r[way] for r in found] for way in ("in", "out")]
        shown = (f"{number(min(speed), 0)}–{number(max(speed), 0)}" for speed in speeds)
        yield name, beyond, *shown, other.get("in", "–"), other.get("out", "–")


def deploy_rows() -> Iterator[tuple[str, ...]]:
    cases = ("90", "95", "90/block:4")
    yield (
        *("processor", "network", "batch"),
        *(f"{zeros(case)}{of}" for of in ("", ", against bfloat16") for case in cases),
    )
    for processor in (XEON, EPYC):
        for network in ("conv-6", "resnet-18"):
            for batch in (64, 1):
                found = [row(processor, "inference", network=network, batch=batch, case=case) for case in cases]
                yield (
                    *(SHORT[processor], f"{NETWORKS[network]}, 32x32", str(batch)),
                    *(times(one, key, quartiles=False) for key in ("ratio", "ratio_bf16") for one in found),
                )
        for batch in (64, 1):
            found = [row(processor, "sparse_linear", batch=batch, case=case) for case in cases]
            yield (
                *(SHORT[processor], "Linear 4096x4096", str(batch)),
                *(times(one, key, quartiles=False) for key in ("ratio", "ratio_bf16") for one in found),
            )


def tables() -> Iterator[Table]:
    for name, made in (
        ("inference", inference_rows),
        ("sparse-linear", linear_rows),
        ("binary-layers", binary_rows),
        ("training-step", training_rows),
        ("supermask-step", supermask_rows),
        ("selection", selection_rows),
        ("ticket-file", file_rows),
        ("deploy", deploy_rows),
    ):
        yield Table(name, list(made()))


def found(benchmark: str, **wanted: object) -> Row:
    """The Xeon's row with these values."""
    one = row(XEON, benchmark, **wanted)
    assert one is not None, (benchmark, wanted)
    return one


def claims() -> Iterator[Claim]:
    seconds = {
        "lenet": found("inference", network="lenet-300-100"),
        "resnet": found("inference", network="resnet-18", batch=64, case="90"),
        "mobile": found("inference", network="mobilenet-v2"),
    }
    yield Claim(
        "docs/deploy.md",
        "That takes {lenet} s for LeNet-300-100 on the Xeon of [section 5](#5-measured), {resnet} s for ResNet-18 at "
        "batch 64, and {mobile} s for a MobileNetV2",
        {name: number(one["deploy_seconds"], 0) for name, one in seconds.items()},
    )
    chains = {
        p: [r["chain"]["median"] for r in rows(p, "binary_layers") if r["batch"] == 64 and r["name"].startswith("conv")]
        for p in (XEON, EPYC)
    }
    yield Claim(
        "docs/deploy.md",
        "against float32: {xeon} times on the Xeon ({epyc} on the EPYC) for 3x3 convolutions at batch 64",
        {name: to(chains[p], 1) for name, p in (("xeon", XEON), ("epyc", EPYC))},
    )
    yield Claim(
        "docs/benchmarks.md",
        "Targets against float32 are 1.6 at 90 %, 2.8 at 95 % and 2.5 at 90 % in blocks: met in {xeon} of {all} "
        "cases on the Xeon, in all on the EPYC.",
        {"xeon": str(sum(met(one) for one in aimed(XEON))), "all": str(len(list(aimed(XEON))))},
        all(map(met, aimed(EPYC))),
    )
    signs = found("sparse_linear", batch=1, case="90/signs")
    yield Claim(
        "docs/deploy.md",
        "deployed for batch 1, takes {ours} MB instead of {dense}, {bound} times mask entropy",
        {
            "ours": number(signs["bytes"] / 1e6, 2),
            "dense": number(4 * signs["size"] ** 2 / 1e6, 1),
            "bound": number(signs["over_bound"], 2),
        },
    )
    small = seconds["lenet"]
    yield Claim(
        "docs/deploy.md",
        "LeNet-300-100 with half of its weights takes {ours} ms deployed on the Xeon, of which most is the call "
        "itself, and {dense} ms in the fastest float32 engine",
        {"ours": milliseconds(small, "deployed"), "dense": fastest(small)},
        small["ratio"]["median"] < 1,
    )


TARGETS = {"90": 1.6, "95": 2.8, "90/block:4": 2.5}


def aimed(processor: str) -> Iterator[Row]:
    """The rows of whole networks that have a target and were steady."""
    for one in rows(processor, "inference"):
        if one["network"] in ("conv-6", "resnet-18") and one["ratio"].get("steady") is not False:
            yield one


def met(one: Row) -> bool:
    return bool(one["ratio"]["median"] >= TARGETS[one["case"]])


def to(values: list[float], digits: int) -> str:
    """Least to greatest."""
    return f"{number(min(values), digits)} to {number(max(values), digits)}"
