"""docs/trained.md: networks that others trained, pruned in one shot and trained on."""

from __future__ import annotations

from collections.abc import Iterator
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
            scores = [rows[f"{density} {one}"]["score"] for one in criteria]
            scores += [rows[trained[density]]["score"]] if trained else []
            cells.append([_zeros(density), *(number(one, 1) for one in (*scores, rows[last]["score_int8"]))])
        yield Table(f"trained/{task}", cells)
        sizes = [("zeros", *SIZES.values(), "bound, float32")]
        dense = [_megabytes(rows["dense"][key]) if key in rows["dense"] else "" for key in SIZES]
        sizes.append(("none", *dense, ""))
        for density in densities:
            row = rows[trained.get(density) or _best(rows, density)]
            sizes.append((_zeros(density), *(_megabytes(row[key]) for key in (*SIZES, "bound"))))
        yield Table(f"trained/{task}-files", sizes)


def claims() -> Iterator[Claim]:
    shares = [
        row["ticket_float32"] / row["bound"]
        for found in records().values()
        for row in found["rows"].values()
        if "bound" in row
    ]
    ends = {"least": number(min(shares), 3), "most": number(max(shares), 3)}
    yield Claim(PAGE, "In float32 a ticket takes {least} to {most} of the bound", ends)
    rows = records()["crepe-tiny"]["rows"]
    given = {
        "dense": number(rows["dense"]["score"], 1),
        "gpt": number(rows["0.2 sparse_gpt"]["score"], 1),
        "magnitude": number(rows["0.2 magnitude"]["score"], 1),
        "after": number(rows["0.2 sparse_gpt, 300 steps"]["score"], 1),
    }
    words = (
        "At 80 % zeros sparse_gpt leaves {gpt} % of the frames right, of {dense} % before, and magnitude {magnitude} %"
    )
    yield Claim(PAGE, words, {name: given[name] for name in ("gpt", "dense", "magnitude")})
    yield Claim(PAGE, "300 steps of training bring it to {after} %", {"after": given["after"]})
    row = rows["0.2 sparse_gpt, 300 steps"]
    times = number(rows["dense"]["pth"] / row["ticket_int8"], 0)
    yield Claim(PAGE, "in int8 its ticket is {times} times smaller than the checkpoint", {"times": times})


def _best(rows: Any, density: str) -> str:
    """The criterion of the highest score; its row."""
    names = [name for name in rows if name.startswith(f"{density} ") and not name.endswith("steps")]
    return str(max(names, key=lambda name: rows[name]["score"]))


def _zeros(density: str) -> str:
    return f"{100 * (1 - float(density)):.0f} %"


def _megabytes(size: int) -> str:
    return number(size / 1e6, 2)
