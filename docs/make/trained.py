"""docs/trained.md: networks that others trained, pruned in one shot and trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pages import Claim, Table
from results import RESULTS, number, record

PAGE = "docs/trained.md"
CRITERIA = ("magnitude", "wanda", "sparse_gpt")
SIZES = {
    "pth": ".pth",
    "gzip": "gzip",
    "zstd": "zstd",
    "ticket_float32": "ticket",
    "ticket_float16": "float16",
    "ticket_int8": "int8",
}


def records() -> dict[str, Any]:
    """task -> what its file holds."""
    return {path.stem: record("trained", path.name) for path in sorted((RESULTS / "trained").glob("*.json"))}


def tables() -> Iterator[Table]:
    for task, found in records().items():
        rows = found["rows"]
        densities = sorted({name.split()[0] for name in rows if name != "dense"}, key=float, reverse=True)
        criteria = [one for one in CRITERIA if any(one in name.split()[1:] for name in rows)]
        trained = {name.split()[0]: name for name in rows if name.endswith("steps")}
        head = ["zeros", *criteria, *(["trained on"] if trained else []), "in int8"]
        cells = [head, ["none", number(rows["dense"]["score"], 1), *[""] * (len(head) - 2)]]
        for density in densities:
            last = trained.get(density) or _best(rows, density)
            names = [f"{density} {one}" for one in criteria] + ([trained.get(density, "")] if trained else [])
            scores = [number(rows[name]["score"], 1) if name in rows else "" for name in names]
            cells.append([_zeros(density), *scores, number(rows[last]["score_int8"], 1)])
        yield Table(f"trained/{task}", cells)
        sizes = [("zeros", *SIZES.values(), "bound, float32")]
        dense = [_megabytes(rows["dense"][key]) if key in rows["dense"] else "" for key in SIZES]
        sizes.append(("none", *dense, ""))
        for density in densities:
            row = rows[trained.get(density) or _best(rows, density)]
            sizes.append((_zeros(density), *(_megabytes(row[key]) for key in (*SIZES, "bound"))))
        yield Table(f"trained/{task}-files", sizes)


def claims() -> Iterator[Claim]:
    found = {task: one["rows"] for task, one in records().items()}
    packed = [row for row in found["crepe-tiny"].values() if "bound" in row]
    shares = [row["ticket_float32"] / row["bound"] for row in packed]
    larger = [row["gzip"] / row["ticket_float32"] for row in packed]
    ends = {"least": number(min(shares), 3), "most": number(max(shares), 3)}
    yield Claim(PAGE, "In float32 a ticket of CREPE tiny takes {least} to {most} of the bound", ends)
    ends = {"least": number(min(larger), 2), "most": number(max(larger), 2)}
    yield Claim(PAGE, "gzip's file is {least} to {most} times as large", ends)
    rows = found["crepe-tiny"]
    words = (
        "At 80 % zeros sparse_gpt leaves {gpt} % of the frames right, of {dense} % before, and magnitude {magnitude} %"
    )
    given = {"gpt": "0.2 sparse_gpt", "dense": "dense", "magnitude": "0.2 magnitude"}
    yield Claim(PAGE, words, _scores(rows, given))
    yield Claim(
        PAGE, "300 steps of training bring it to {after} %", _scores(rows, {"after": "0.2 sparse_gpt, 300 steps"})
    )
    times = _times(rows, "0.2 sparse_gpt, 300 steps")
    yield Claim(PAGE, "in int8 its ticket is {times} times smaller than the checkpoint", {"times": times})
    rows = found["crepe-full"]
    words = "Of CREPE full, {dense} % of the frames are right before, and {left} % with 80 % zeros by magnitude"
    yield Claim(PAGE, words, _scores(rows, {"dense": "dense", "left": "0.2 magnitude"}))
    words = "its int8 ticket is {times} times smaller than the checkpoint, at {score} %"
    yield Claim(
        PAGE, words, {"times": _times(rows, "0.2 magnitude"), "score": number(rows["0.2 magnitude"]["score_int8"], 1)}
    )
    rows = found["minilm"]
    words = "At half of the weights the cosine is {magnitude} by magnitude, {wanda} by wanda, {gpt} by sparse_gpt"
    given = {"magnitude": "0.5 magnitude", "wanda": "0.5 wanda", "gpt": "0.5 sparse_gpt"}
    yield Claim(PAGE, words, _scores(rows, given))
    yield Claim(PAGE, "and {after} after 200 steps", _scores(rows, {"after": "0.5 sparse_gpt, 200 steps"}))


def _scores(rows: Any, names: Mapping[str, str]) -> dict[str, str]:
    return {place: number(rows[name]["score"], 1) for place, name in names.items()}


def _times(rows: Any, name: str) -> str:
    """How many times smaller the int8 ticket is."""
    return number(rows["dense"]["pth"] / rows[name]["ticket_int8"], 0)


def _best(rows: Any, density: str) -> str:
    """The criterion of the highest score; its row."""
    names = [name for name in rows if name.startswith(f"{density} ") and not name.endswith("steps")]
    return str(max(names, key=lambda name: rows[name]["score"]))


def _zeros(density: str) -> str:
    return f"{100 * (1 - float(density)):.0f} %"


def _megabytes(size: int) -> str:
    return number(size / 1e6, 2)
