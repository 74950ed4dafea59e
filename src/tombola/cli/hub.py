"""push: a ticket on the Hugging Face Hub, where huggingface_hub's own log-in says who may write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.screen import Screen, loading
from tombola.cli.tickets import add_no_origin, add_ticket, add_values
from tombola.cli.verb import Verb


def verbs() -> list[Verb]:
    """`push`."""
    return [Verb(("push",), "Put a ticket on the Hugging Face Hub, with a model card.", _add, _push)]


def _add(parser: ArgumentParser) -> None:
    add_ticket(parser)
    parser.add_argument(
        "repo", type=str, help="the repository, user/name, made where it is missing; first log in by hf auth login"
    )
    parser.add_argument("--filename", type=str, default="network.ticket", help="the ticket's name in the repository")
    add_values(parser)
    add_no_origin(parser, "leave out stored weights from before training: see export")
    card = parser.add_argument_group("model card, written where the repository has no README")
    card.add_argument(
        "--verdict", type=str | None, default=None, help="the run of its verify, a folder: its claims and intervals"
    )
    card.add_argument(
        "--milliseconds",
        type=dict[str, float],
        default={},
        help="what was timed: ms, e.g. '{dense: 56.3, deployed: 9}'",
    )
    card.add_argument("--machine", type=str | None, default=None, help="processor and threads it was timed on")
    card.add_argument(
        "--replace_card", type=bool, nargs="?", const=True, default=False, help="write it over a README that is there"
    )
    parser.add_argument(
        "--private",
        type=bool | None,
        nargs="?",
        const=True,
        default=None,
        help="whether a new repository is private (null: as the Hub has it)",
    )
    parser.add_argument("--revision", type=str | None, default=None, help="the branch (null: main)")


def _push(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    with loading(None):
        from tombola.ticket.ticket import Ticket

    ticket = Ticket.load(given["ticket"], max_weights=given["max_weights"])
    url = ticket.push_to_hub(
        given["repo"],
        given["filename"],
        origin=False if given["no_origin"] else None,
        verdict=None if given["verdict"] is None else Path(given["verdict"]),
        milliseconds=dict(given["milliseconds"]) or None,
        **{name: given[name] for name in ("values", "machine", "private", "revision", "replace_card")},
    )
    screen.line(f"{given['filename']} in {given['repo']}: {url}")
    return {
        "ticket": given["ticket"],
        "recipe": ticket.recipe,
        "repo": given["repo"],
        "file": given["filename"],
        "url": url,
    }
