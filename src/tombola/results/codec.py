"""Results read from the files of a run: checked against their types, a wrong field named by its path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tombola.errors import TombolaError
from tombola.results.record import Record
from tombola.runs.integrity import check_format, read_record
from tombola.runs.stage import RESULT, Stage

R = TypeVar("R", bound=Record)


def read(kind: type[R], file: Path) -> R | None:
    """The record in a `result.json`; None where there is no such file.

    Raises:
        TombolaError: it is damaged, or of another format or kind.
    """
    content = read_record(file)
    return None if content is None else typed(kind, content, file)


def recovered(kind: type[R], stage: Stage | None) -> R | None:
    """What a finished stage gave; see `Stage.recovered`."""
    content = stage.recovered() if stage is not None else None
    return None if stage is None or content is None else typed(kind, content, stage.directory / RESULT)


def typed(kind: type[R], content: Mapping[str, Any], file: Path) -> R:
    """The content of a file as a record.

    Raises:
        TombolaError: a field is missing or wrong; the message names its path, and how to go on.
    """
    check_format(content, file)
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise TombolaError(
            f"{file} holds no result that this version of Tombola reads ({error}); run its command again in another "
            "folder, or read it with the version that wrote it"
        ) from None
