"""The result of a search that is still under way, put together from the stages it has finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tombola.report.nodes import Node, load


def partial_search(path: Path, config: object) -> Node | None:
    """What `result.json` would hold of the finished stages under `path`, or None if there are none.

    Stages are `replicate-R/level-LL` (the search) and `replicate-R/ARM-LL` (controls), as the run writes them.
    """
    replicates = []
    for folder in sorted(path.glob("replicate-*"), key=lambda folder: (len(folder.name), folder.name)):
        arms: dict[str, list[Any]] = {}
        for stage in sorted(folder.iterdir()):
            found = load(stage / "result.json") if stage.is_dir() else None
            if found is not None:
                name = stage.name.rpartition("-")[0]
                arms.setdefault("ticket" if name == "level" else name, []).append(found.value)
        number = folder.name.rpartition("-")[2]
        if "ticket" in arms and number.isdigit():
            replicates.append({"replicate": int(number), "arms": arms})
    if not replicates:
        return None
    names = {part: _name(config, part) for part in ("method", "model", "data")}
    return Node({**names, "replicates": replicates}, str(path))


def _name(config: object, part: str) -> str:
    found = config.get(part) if isinstance(config, Mapping) else None
    return str(found.get("name", "?")) if isinstance(found, Mapping) else "?"
