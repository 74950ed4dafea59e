"""The reference: a page for each group of public names, from their docstrings; `__init__.pyi` says where each is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from pages import ROOT

STUB = ROOT / "src" / "tombola" / "__init__.pyi"
GROUPS = {
    "Find, verify, compare": (
        "How tickets are found and judged, as calls of their own; the command line is made of the same.",
        "find verify sweep results reproduce Options Recipe DataSpec ModelSpec Logger TombolaError",
    ),
    "Studies": (
        "Double descent, regime, connectivity, landscape and initialisations: what is asked, and what comes back.",
        "double_descent FourierFeatures ReluFeatures Width Forest SparseDescent DescentResult DescentPoint "
        "regime RegimeResult PlacedTicket connectivity Connectivity ConnectivityResult barrier Line "
        "landscape Landscape LandscapeResult statistics_of initialisations Initialisations InitialisationsResult",
    ),
    "Masks and tickets": (
        "What is found: which weights are kept, and the file that holds them. All works on any module, in any loop.",
        "Mask Ticket TicketError switch Switched prunable select hold Gradual Cubic gradient",
    ),
    "Learned masks": (
        "Masks learned in the forward pass, on any module and in any loop.",
        "attach refresh read detach make_permanent TopK",
    ),
    "Methods": ("The published methods, as arguments of `find`; each has [a page](../methods.md) of its own.", ""),
    "Deploy": ("Networks that run faster, and give the same outputs.", "deploy what_if"),
    "Prune": (
        "A trained network, pruned in one shot: calibration data, one mask, one ticket.",
        "prune prune_channels Pruned sensitivity Sensitivity prune_to Reached Evolution",
    ),
    "Checkpoints": (
        "A network with zeros, and the exact difference of two checkpoints, as small files.",
        "pack unpack delta Delta Tall",
    ),
}
"""Title -> what its names are for, and the names; Methods takes those of tombola.methods."""
PARTS = (
    "data.splits.make_splits",
    "data.splits.Splits",
    "data.task.Task",
    "data.task.classification",
    "models.spec.ModelSpec",
    "select.context.Context",
    "levels.context.context_of",
    "levels.stage.train_dense",
    "levels.stage.train_under",
    "levels.search.Search",
    "levels.search.Level",
    "train.hooks.Hook",
    "train.loop.train",
    "supermask.callbacks.lightning_callback",
    "supermask.callbacks.transformers_callback",
    "gradual.adapters.merge_adapters",
)
"""What data, criteria, methods and hooks of one's own are written with: paths within tombola."""


def pages(folder: Path) -> Iterator[tuple[str, str]]:
    """One page for each group of public names: its place, and its text; names of no group stand in the first."""
    places = public()
    methods = sorted(name for name, place in places.items() if ".methods." in place)
    grouped = {title: names.split() for title, (_, names) in GROUPS.items()} | {"Methods": methods}
    listed = {name for names in grouped.values() for name in names}
    next(iter(grouped.values())).extend(name for name in places if name not in listed)
    for title, names in grouped.items():
        entries = [entry(name, places[name]) for name in names]
        file = f"api/{title.lower().replace(', ', '-').replace(' ', '-')}.md"
        yield file, f"# {title}\n\n{GROUPS[title][0]}\n\n" + "\n".join(entries)
    text = (
        "What data, criteria, methods and hooks of your own are written with; each is imported from where it is named."
    )
    entries = [entry(part, f"tombola.{part}").replace("tb.", "tombola.") for part in PARTS]
    yield "api/parts.md", f"# Parts for your own\n\n{text}\n\n" + "\n".join(entries)


def entry(name: str, place: str) -> str:
    """What makes mkdocstrings write one name, under the name that users write."""
    return f"::: {place}\n    options:\n      heading: tb.{name}\n      toc_label: tb.{name}\n"


def public() -> dict[str, str]:
    """The public names that are no packages, and the path at which each is defined."""
    imports = [node for node in ast.parse(STUB.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    return {name.name: f"tombola.{node.module}.{name.name}" for node in imports if node.module for name in node.names}
