"""deploy and bench: a ticket, or any network with zeros, as fast inference on this machine."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.options import listed, several
from tombola.cli.screen import Screen, loading
from tombola.cli.searches import add_room
from tombola.cli.subjects import HELP, Subject, add_subject, subject
from tombola.cli.tickets import add_architecture
from tombola.cli.verb import Verb
from tombola.cli.what_if import add_what_if, batch_sizes, check_what_if_unset, run_what_if, texts
from tombola.errors import TombolaError

if TYPE_CHECKING:
    from tombola.bench.bench import Benchmark
    from tombola.data.splits import Splits
    from tombola.deploy.deploy import Deployed

_FORMATS = ["onnx", "state_dict", "torch"]


def verbs() -> list[Verb]:
    """`deploy` and `bench`."""
    return [
        Verb(
            ("deploy",),
            "Make a ticket, or any network with zeros, as fast as this machine allows; write plan, report and network.",
            _add_deploy,
            _deploy,
        ),
        Verb(
            ("bench",),
            "Time a deployed ticket, or what zeros would gain in any network, against this machine's dense engines.",
            _add_bench,
            _bench,
        ),
    ]


def _add_common(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--input_shape",
        type=several(int) | None,
        default=None,
        help="shape of one input, without the batch (null: what the ticket records)",
    )
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads (null: as torch is set)")
    add_subject(parser)
    add_architecture(parser)


def _add_deploy(parser: ArgumentParser) -> None:
    parser.add_argument("ticket", type=str, help=HELP)
    add_room(parser)
    parser.add_argument("--out", type=str, required=True, help="output folder")
    parser.add_argument("--batch", type=int, default=1, help="batch size to tune for; others work too")
    parser.add_argument(
        "--plan",
        type=str | None,
        default=None,
        help="plan.json of an earlier deployment: reuse its choices instead of measuring",
    )
    parser.add_argument(
        "--engines",
        type=list[str] | str | None,
        default=None,
        help="tried for the whole network beside: onnxruntime, openvino (null: those installed; []: none)",
    )
    parser.add_argument(
        "--time_limit",
        type=float | None,
        default=60.0,
        help="seconds, about, that deploying may take: the longer, the more kernels are tried (null: all)",
    )
    parser.add_argument(
        "--precision",
        type=Literal["float32", "int8"],
        default="float32",
        help="int8: each region also in 8 bits, where that is faster; scales are from the ticket's data",
    )
    parser.add_argument(
        "--calibration", type=int, default=512, help="for int8: how many training examples give the scales"
    )
    parser.add_argument("--data_root", type=str, default="data", help="for int8: where the ticket's data lies")
    parser.add_argument(
        "--formats",
        type=list[str] | str,
        default=_FORMATS,
        help="how the compacted network is written: onnx, state_dict (.safetensors), torch (.pt2); c: the deployed "
        "one as a library for C, its kernels included; onnx_kernels: the same as operators for ONNX Runtime",
    )
    parser.add_argument(
        "--kernels_only",
        type=bool,
        default=False,
        help="run what has native kernels in them, also where torch was measured faster: for c, which has nothing else",
    )
    _add_common(parser)


def _add_bench(parser: ArgumentParser) -> None:
    parser.add_argument("ticket", type=str, help=HELP)
    add_room(parser)
    parser.add_argument(
        "--batch",
        type=list[int] | int | str | None,
        default=None,
        help="batch sizes, e.g. 1,64 (null: those; with --what_if 1)",
    )
    parser.add_argument(
        "--engines",
        type=list[str] | str | None,
        default=None,
        help="which engines (null: all that run here; with --what_if those that need no compiler, and int8)",
    )
    parser.add_argument("--rounds", type=int, default=9, help="how often every engine is timed")
    add_what_if(parser)
    _add_common(parser)


def _deployed(
    given: Namespace,
    about: Subject,
    batch: int,
    engines: Sequence[str] | None = (),
    splits: Splits | None = None,
) -> Deployed:
    from tombola.deploy.deploy import deploy
    from tombola.runs.progress import show_progress

    with show_progress() as progress, stopped_by_hand() as stop:
        return deploy(
            about.network,
            about.inputs(batch),
            threads=given["threads"],
            plan=given.get("plan"),
            precision="float32" if splits is None else "int8",
            calibration=None if splits is None else _batches(given, about, splits),
            kernels_only=given.get("kernels_only", False),
            engines=engines,
            time_limit=given.get("time_limit", 60.0),
            stop=stop,
            progress=progress,
        )


@contextmanager
def stopped_by_hand() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, which ends the measuring: what was found is used. A second one ends the command."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)
        print("tombola: going on with what was found so far; Ctrl-C again ends", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():  # others have no signals
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


def _data(given: Namespace) -> Splits | None:
    """The ticket's data, where scales are wanted of it."""
    if given["precision"] == "float32" or given["plan"] is not None:
        return None
    if given["calibration"] < 1:
        raise TombolaError(f"calibration is {given['calibration']}; give 1 example or more")
    from tombola.search.request import loaded
    from tombola.study.recorded import data_of
    from tombola.ticket.ticket import Ticket

    if not Path(given["ticket"]).is_file():
        raise TombolaError(
            f"precision int8 takes its scales from a ticket's data, and {given['ticket']} is no ticket; "
            "give it batches from Python: tb.deploy(precision='int8', calibration=...)"
        )
    ticket = Ticket.load(given["ticket"], max_weights=given["max_weights"])
    return loaded(data_of(ticket, given["data_root"]))


def _batches(given: Namespace, about: Subject, splits: Splits) -> list[tuple[Any, ...]]:
    from tombola.prune.calibration import read

    return [batch.args for batch in read(splits, about.network, given["calibration"], None, 0).batches]


def _accuracy(about: Subject, deployed: Deployed, splits: Splits, screen: Screen) -> dict[str, Any]:
    """The metric on the validation split, before and after; the test split is left alone."""
    from tombola.cli.pruning import change, validated

    metric, before, after = splits.task.metric_name, validated(about.network, splits), validated(deployed, splits)
    screen.line(change(metric, before, after))
    return {"metric": metric, "float32": before, "deployed": after}


def _deploy(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    from tombola.runs.atomic import check_folder, make_folder, write_json

    with loading(None):
        from tombola.deploy.c.export import export_library, how_to_link
        from tombola.deploy.c.onnx import export_operators
        from tombola.deploy.c.passes import passes_of
        from tombola.deploy.export import OF_DEPLOYED, check_formats, export

    formats = [given["formats"]] if isinstance(given["formats"], str) else given["formats"]
    check_formats(formats)
    out = Path(given["out"])
    check_folder(out)
    about = subject(given)
    splits = _data(given)
    engines = None if given["engines"] is None else listed(given["engines"])
    deployed = _deployed(given, about, given["batch"], engines, splits)
    example = about.inputs(given["batch"])
    if "c" in formats:
        passes_of(deployed)  # refused before anything is written
    files = export(deployed.compacted, (example,), out, formats=[one for one in formats if one not in OF_DEPLOYED])
    if "c" in formats:
        files |= export_library(deployed, out)
    if "onnx_kernels" in formats:
        files |= export_operators(deployed, (example,), out)
    make_folder(out)
    deployed.plan.save(out / "plan.json")
    report = deployed.report.as_dict()
    write_json(out / "report.json", report)
    screen.line(str(deployed.report))
    validation = None if splits is None else _accuracy(about, deployed, splits, screen)
    for file, info in files.items():
        if info["error"] is not None:
            any_batch = "any batch" if info["batch"] is None else f"a batch of {info['batch']} only"
            screen.line(f"{file}: run here, outputs equal within {info['error']:.1e}; {any_batch}")
    if "c" in formats and not any(file.startswith("libnetwork.") for file in files):
        screen.line(how_to_link())
    screen.line(f"wrote {', '.join(['plan.json', 'report.json', *files])} to {out}")
    if not any(bool((weight == 0).any()) for weight in about.network.parameters() if weight.dim() > 1):
        screen.line("no weight of it is 0: there is nothing to skip; prune it first")
    found = {"ticket": given["ticket"], "recipe": about.recipe}
    return {**found, "out": str(out), "report": report, "files": files, "validation": validation}


def _bench(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    if given["what_if"] is not None:
        return run_what_if(given, screen)
    check_what_if_unset(given)
    with loading(None):
        import torch

        from tombola.bench.bench import bench, check_bench
        from tombola.bench.engines import ENGINES

    batches = batch_sizes([1, 64] if given["batch"] is None else given["batch"])
    engines = texts(given["engines"]) or tuple(ENGINES)
    check_bench(engines, given["rounds"])
    about = subject(given)
    measured = bench(
        about.network,
        {batch: _deployed(given, about, batch) for batch in batches},
        {batch: (about.inputs(batch),) for batch in batches},
        threads=torch.get_num_threads() if given["threads"] is None else given["threads"],
        engines=engines,
        rounds=given["rounds"],
        ticket_bytes=about.size,
    )
    show_bench(screen, measured)
    return {"ticket": given["ticket"], "recipe": about.recipe, **measured.as_dict()}


def show_bench(screen: Screen, measured: Benchmark) -> None:
    """The times side by side, FLOPs, bytes and speed-ups."""
    from tombola.formats import plural

    rows = [
        [time.engine, str(time.batch), "-", "-", time.missing or ""]
        if time.median is None
        else [time.engine, str(time.batch), f"{time.median:.3f}", f"{time.low:.3f} to {time.high:.3f}", ""]
        for time in measured.timings
    ]
    screen.table(("engine", "batch", "ms", "quartiles", "not run"), rows, left=(0, 4))
    screen.line(f"{plural(measured.threads, 'thread')}, median of {plural(measured.rounds, 'alternating round')}")
    screen.line(f"FLOPs of one input: {measured.flops:,} dense, {measured.kept_flops:,} at kept weights")
    screen.line("bytes: " + ", ".join(f"{name} {size:,}" for name, size in measured.bytes.items()))
    for gain in measured.gains:
        screen.line(str(gain))
