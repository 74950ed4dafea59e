"""verify, info and export: what is done with a ticket file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.options import Group, listed
from tombola.cli.screen import Screen, loading
from tombola.cli.searches import MACHINE, add_room, add_run
from tombola.cli.verb import Verb
from tombola.data.config import DataSpec
from tombola.study.margin import Kind, Margin
from tombola.train.options import Options
from tombola.train.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from tombola.results.verification import VerificationResult
    from tombola.ticket.ticket import Ticket

_DATA = Group(
    "data",
    DataSpec,
    {"name": "data", "root": "data_root", "args": "data_args"},
    unset="as the ticket says",
)
_RECIPE = Group("training", Recipe, unset="as the ticket says")
_WEIGHTS = ("final", "origin")
_ORIGINS = {
    "seeded": "origin drawn from a seed",
    "stored": "origin stored",
    "omitted": "origin left out: for running only",
    "base": "on a base that it names and does not hold",
}


def verbs() -> list[Verb]:
    """`verify`, `info` and `export`."""
    return [
        Verb(
            ("verify",),
            "Train a ticket and its controls on fresh seeds, and say whether it wins.",
            _add_verify,
            _verify,
        ),
        Verb(
            ("info",),
            "Show what a ticket holds: kept weights per layer, bytes, provenance.",
            _add_info,
            _info,
        ),
        Verb(("export",), "Write the ticket's network as a state_dict, or rewrite the ticket.", _add_export, _export),
    ]


def add_ticket(parser: ArgumentParser) -> None:
    """The argument that names a ticket file, and how much it may hold."""
    parser.add_argument("ticket", type=str, help="a ticket file, e.g. runs/.../network.ticket")
    add_room(parser)


def add_values(
    parser: ArgumentParser,
    help: str = "float16, bfloat16 or int8 (a step for each row): kept weights are rounded to that (null: bit for bit)",
) -> None:
    """What a ticket's values are rounded to in its file."""
    parser.add_argument("--values", type=str | None, default=None, help=help)


def add_no_origin(parser: ArgumentParser, help: str) -> None:
    """Whether a ticket's file leaves its origin out."""
    parser.add_argument("--no-origin", "--no_origin", type=bool, nargs="?", const=True, default=False, help=help)


def add_architecture(parser: ArgumentParser) -> None:
    """Options for building the network of a ticket."""
    group = parser.add_argument_group("architecture, for a ticket of a network that is not Tombola's own")
    group.add_argument(
        "--trusted",
        type=list[str] | str,
        default=[],
        help="import prefixes under which the ticket may name its network and optimiser, e.g. torchvision.models",
    )
    group.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="torchvision/NAME, timm/NAME or the import path of its constructor",
    )
    group.add_argument("--model_args", type=dict[str, Any], default={}, help="its keyword arguments")
    group.add_argument(
        "--base",
        type=str | None,
        default=None,
        help="checkpoint that the ticket names as its base; export to .ticket makes a ticket on it of a whole one",
    )


def _add_verify(parser: ArgumentParser) -> None:
    add_ticket(parser)
    group = parser.add_argument_group("claim")
    group.add_argument(
        "--margin",
        type=float,
        default=Margin.value,
        help="how far below dense still matches: 0.002 is 0.2 points of an accuracy, or 0.2 % of another metric",
    )
    group.add_argument(
        "--margin_kind",
        type=Kind,
        default=Margin.kind,
        help="absolute: in the metric's unit; relative: a fraction of dense; auto: absolute for accuracies",
    )
    add_architecture(parser)
    _DATA.add(parser)
    _RECIPE.add(parser)
    add_run(parser, replicates=5, meaning="trainings of every arm; a verdict needs at least 3")
    MACHINE.add(parser)


def _add_info(parser: ArgumentParser) -> None:
    add_ticket(parser)


def _add_export(parser: ArgumentParser) -> None:
    add_ticket(parser)
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="the file: .safetensors, .pt or .pth, or .ticket for another ticket (null: beside it, .safetensors)",
    )
    parser.add_argument("--weights", type=str, default="final", help="final (trained) or origin (before training)")
    add_values(parser, "for .ticket: round trained values to float32, float16, bfloat16 or int8 (null: as they are)")
    add_no_origin(
        parser,
        "for .ticket: leave out stored weights from before training; the trained network can be built, but it "
        "cannot be verified or searched from",
    )
    add_architecture(parser)


def _verify(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    recipe, options = _RECIPE.read(given), Options(**MACHINE.read(given))
    with loading(options.progress):
        from tombola.study.verify import verify
        from tombola.ticket.ticket import Ticket

    ticket = Ticket.load(given["ticket"], max_weights=given["max_weights"])
    ticket.origin.check_held()
    result = verify(
        ticket,
        _data(given, ticket),
        replicates=given["replicates"],
        margin=given["margin"],
        margin_kind=given["margin_kind"],
        seed=given["seed"],
        recipe=recipe,
        model=architecture(given, ticket),
        trusted=trusted(given),
        options=options,
        out=given["out"],
        jobs=given["jobs"],
    )
    show_verdict(screen, result)
    return {"ticket": given["ticket"], **result.as_dict()}


def _data(given: Namespace, ticket: Ticket) -> DataSpec:
    """The data named, or the ticket's own with what was given changed."""
    from tombola.study.recorded import data_of

    fields = _DATA.read(given)
    if "name" in fields:
        return DataSpec(**fields)
    return replace(data_of(ticket, fields.get("root", DataSpec.root)), **fields)


def trusted(given: Namespace) -> tuple[str, ...]:
    """The import prefixes that the user trusts."""
    return tuple(listed(given["trusted"]))


def architecture(given: Namespace, ticket: Ticket) -> nn.Module | None:
    """The network that the user named, of the ticket's input shape and classes; None where none was named.

    With a base it has that one's values, which the ticket must be on.
    """
    named = _named(given, ticket)
    if given["base"] is None:
        return named
    return ticket.origin.module_on(given["base"], named, trusted(given), held=ticket.state)


def _named(given: Namespace, ticket: Ticket) -> nn.Module | None:
    if given["model"] is None:
        return None
    from tombola.models.spec import written_out
    from tombola.ticket.origin import NetworkSpec

    name, args = written_out(given["model"], given["model_args"])
    recorded = ticket.origin.network
    shape, classes = (recorded.input_shape, recorded.classes) if recorded else (None, None)
    # who types an import path here trusts it
    return NetworkSpec(name, args, shape, classes).build(trusted=(name,))


def show_verdict(screen: Screen, result: VerificationResult) -> None:
    """The arms with means and intervals, the claims, and the verdict's sentence."""
    from tombola.report.looks import Looks
    from tombola.report.tables import verify_tables

    screen.tables(verify_tables(result, Looks({})))
    screen.line(result.sentence)
    screen.run(result.run, result.reused)


def _info(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    with loading(None):
        from tombola.ticket.table import info, table
        from tombola.ticket.ticket import Ticket

    held = Ticket.look(given["ticket"], max_weights=given["max_weights"])
    report = info(held)
    origin, provenance = report["origin"], report["provenance"]
    name = origin["network"]["name"] if origin["network"] else "a user's own model"
    screen.line(f"ticket   {given['ticket']} (format {report['format']}, {report['bytes']:,} bytes)")
    screen.line(f"digest   {report['digest'] or 'not computed for so many weights'}")
    screen.line(f"network  {name}, {_ORIGINS[origin['kind']]}")
    if origin["kind"] == "base":
        screen.line(f"base     {len(origin['base'])} tensors, hash {origin['weights_hash']}")
    if found := _found(provenance):
        screen.line(f"found    {found}")
    if report["kept_action"] != "rewind":
        screen.line(f"kept     weights begin with what kept action {report['kept_action']} gave")
    if report["pruned_action"] != "zero":
        rest = f"are held at what pruned action {report['pruned_action']} gave"
        screen.line(f"pruned   weights {'begin at 0 and are trained too' if report['pruned'] == 'train' else rest}")
    if report["barred_kept"]:
        screen.line(f"barred   {report['barred_kept']:,} of the {report['kept']:,} kept weights, by the criterion")
    screen.line()
    screen.line(table(held))
    return {"ticket": given["ticket"], **report}


def _found(provenance: Mapping[str, Any]) -> str:
    """By what, on which data and from which seed, as far as it is recorded: whatever the file's writer put there."""
    names = {
        word: part["name"]
        for word, part in (("by", provenance.get("method")), ("on", provenance.get("data")))
        if isinstance(part, Mapping) and part.get("name") is not None
    }
    by, seed = " ".join(f"{word} {name}" for word, name in names.items()), provenance.get("seed")
    return ", ".join(filter(None, (by, None if seed is None else f"seed {seed}")))


def _export(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    from tombola.errors import TombolaError
    from tombola.names import unknown

    with loading(None):
        from tombola.ticket.export import export_state
        from tombola.ticket.rounding import Values
        from tombola.ticket.table import describe_density
        from tombola.ticket.ticket import Ticket

    if given["weights"] not in _WEIGHTS:
        raise TombolaError(unknown("weights", given["weights"], _WEIGHTS))
    if given["values"] not in (None, *get_args(Values)):
        raise TombolaError(unknown("values", given["values"], get_args(Values)))
    ticket = Ticket.load(given["ticket"], max_weights=given["max_weights"])
    out = Path(given["out"] or Path(given["ticket"]).with_suffix(".safetensors"))
    report = {"ticket": given["ticket"], "recipe": ticket.recipe, "out": str(out), "density": ticket.density}
    if out.suffix == ".ticket":
        lean = given["no_origin"]
        if given["base"] is not None:
            if lean:
                raise TombolaError("--base names the origin, and --no-origin leaves it out; give one of the two")
            ticket = ticket.on_base(given["base"], _named(given, ticket), trusted(given))
        digest = ticket.save(out, values=given["values"], origin=False if lean else None)
        screen.line(f"wrote {out}: {out.stat().st_size:,} bytes, digest {digest}")
        if ticket.origin.kind == "omitted" and not lean:
            screen.line("its origin was left out before: it stays so, and the ticket is for running only")
        if lean and ticket.origin.kind in ("seeded", "base"):
            what = "a seed" if ticket.origin.kind == "seeded" else "a base that it names"
            screen.line(f"its origin is {what}, which takes no space: it stays")
        return {**report, "bytes": out.stat().st_size, "digest": digest}
    for option, unset in (("values", None), ("no_origin", False)):
        if given[option] != unset:
            flag = option.replace("_", "-")
            raise TombolaError(f"--{flag} is for another ticket, and {out} is none; name a file that ends in .ticket")
    state = export_state(
        ticket, out, weights=given["weights"], model=architecture(given, ticket), trusted=trusted(given)
    )
    screen.line(f"wrote {out}: {len(state)} tensors, kept {describe_density(ticket)}")
    return {**report, "tensors": len(state)}
