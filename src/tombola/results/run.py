"""What a run's run.json says: its command, configuration and versions."""

from __future__ import annotations

from typing import Any

from msgspec import field

from tombola.results.record import Record, Settings


class RunRecord(Record, frozen=True, kw_only=True):
    """How a run was begun. `machine`: what the bits depend on besides the versions, such as threads."""

    kind: str = "unknown"
    name: str = ""
    command: str = ""
    begun: str = ""
    config: Settings = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    machine: Settings = field(default_factory=dict)
