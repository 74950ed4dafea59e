"""Tickets on the Hugging Face Hub; who may read or write is left to huggingface_hub and its own log-in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tombola.errors import TombolaError, in_short, not_installed
from tombola.ticket.card import card, verified
from tombola.ticket.ticket import UNLIMITED, Ticket

FILENAME = "network.ticket"
CARD = "README.md"


def pull(
    repo_id: str, filename: str = FILENAME, *, revision: str | None = None, max_weights: int | None = None
) -> Ticket:
    """See `Ticket.from_hub`."""
    _check_within(filename)
    hub = _hub()
    with _asking(repo_id):
        path = hub.hf_hub_download(repo_id, filename, revision=revision)
    return Ticket.load(path, max_weights=max_weights)


def push(
    ticket: Ticket,
    repo_id: str,
    filename: str,
    *,
    saved: Mapping[str, Any],
    told: Mapping[str, Any],
    private: bool | None,
    revision: str | None,
    replace_card: bool,
) -> str:
    """See `Ticket.push_to_hub`; `saved`: how the ticket is, as of `Ticket.save`, `told`: what the card says besides."""
    hub = _hub()
    if isinstance(run := told["verdict"], os.PathLike):
        told = {**told, "verdict": verified(Path(run), ticket)}  # here, for the ticket that is saved may be rounded
    _check_within(filename)
    if Path(filename).suffix != ".ticket":
        raise TombolaError(f"filename is {filename!r}; a ticket's name in the repository ends in .ticket")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "network.ticket"
        ticket.save(file, **saved)
        written = Ticket.load(file, max_weights=UNLIMITED)
        text = card(written, files={filename: file.stat().st_size}, repo_id=repo_id, **told)
        api = hub.HfApi()
        with _asking(repo_id):
            api.create_repo(repo_id, exist_ok=True, private=private)
            add = [hub.CommitOperationAdd(path_in_repo=filename, path_or_fileobj=os.fspath(file))]
            if replace_card or not api.file_exists(repo_id, CARD, revision=revision):
                add.append(hub.CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=text.encode()))
            done = api.create_commit(repo_id, add, commit_message=f"Ticket {filename}", revision=revision)
    return str(done.commit_url)


def _check_within(filename: str) -> None:
    """TombolaError for a name that is of no file within a repository."""
    parts = filename.replace("\\", "/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise TombolaError(
            f"filename is {filename[:200]!r}; give a file's path within the repository, such as {FILENAME} or "
            f"small/{FILENAME}"
        )


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise not_installed("huggingface_hub", "tombola[hub]") from error
    return huggingface_hub


@contextmanager
def _asking(repo_id: str) -> Iterator[None]:
    """Whatever the Hub answers, or that it is out of reach, as one line."""
    try:
        yield
    except Exception as error:
        raise TombolaError(
            f"{str(repo_id)[:200]!r} on the Hub: {in_short(error)}; check its name, the network, and the log-in "
            "(hf auth login)"
        ) from error
