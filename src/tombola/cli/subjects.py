"""What deploy and bench are about: a ticket, or any network with the values of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.options import listed
from tombola.cli.tickets import architecture, trusted
from tombola.errors import TombolaError

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASSES = 10
"""Of one of Tombola's own networks, unless others are asked for."""
HELP = (
    "a ticket file, e.g. runs/.../network.ticket; or a network: a name, torchvision/NAME, timm/NAME or an import path"
)


@dataclass(frozen=True)
class Subject:
    """`network`: in eval mode; `inputs`: its inputs by batch size; of a ticket `recipe`, its training's, and bytes."""

    network: nn.Module
    inputs: Callable[[int], Tensor]
    recipe: Any = None
    size: int | None = None


def add_subject(parser: ArgumentParser) -> None:
    """The options of a network that is no ticket."""
    group = parser.add_argument_group("a network that is no ticket; its keyword arguments are --model_args")
    group.add_argument(
        "--checkpoint", type=str | None, default=None, help="its weights, zeros included (null: as it is made)"
    )
    group.add_argument(
        "--classes",
        type=int | None,
        default=None,
        help=f"its outputs (null: {CLASSES} of Tombola's own networks, else its constructor's own default)",
    )


def subject(given: Namespace) -> Subject:
    """What is named.

    Raises:
        TombolaError: neither a ticket nor a known network, no input shape, or a checkpoint that does not fit.
    """
    from tombola.models.checkpoint import SUFFIXES, load_checkpoint_
    from tombola.models.registry import check_name, is_known
    from tombola.models.spec import written_out
    from tombola.ticket.example import example_input, random_input
    from tombola.ticket.origin import NetworkSpec
    from tombola.ticket.ticket import Ticket

    name, shape = given["ticket"], listed(given["input_shape"])
    if name.endswith(SUFFIXES):
        raise TombolaError(f"{name} is a checkpoint; name its network first, and the file as checkpoint")
    if name.endswith(".ticket") or Path(name).is_file() or (Path(name).is_dir() and not is_known(name)):
        for option in ("checkpoint", "classes"):
            if given[option] is not None:
                raise TombolaError(
                    f"--{option} is of a network, and {name} is a ticket, which has its own; leave it out"
                )
        ticket = Ticket.load(name, max_weights=given["max_weights"])
        model = ticket.build(model=architecture(given, ticket), trusted=trusted(given)).eval()
        return Subject(model, partial(example_input, ticket, shape=shape), ticket.recipe, Path(name).stat().st_size)
    check_name(name)
    if not shape:
        raise TombolaError(f"{name}: its input shape is not known; give one: --input_shape, e.g. [3, 224, 224]")
    classes = CLASSES if given["classes"] is None and is_known(name) else given["classes"]
    path, args = written_out(name, given["model_args"])
    # who types an import path trusts it
    network = NetworkSpec(path, args, tuple(shape), classes).build(trusted=(path,)).eval()
    if given["checkpoint"] is not None:
        load_checkpoint_(network, given["checkpoint"])
    return Subject(network, partial(random_input, shape=shape))
