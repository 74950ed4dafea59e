"""The ticket: origin + mask + trained weights + provenance, what find, verify and deploy exchange."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tombola.errors import TicketError, TombolaError
from tombola.fields import checked
from tombola.mask import Mask
from tombola.nn.rewrite import apply_rewrites
from tombola.runs.atomic import write_bytes
from tombola.ticket import checks, codec, omit, on_base, rounding
from tombola.ticket import format as container
from tombola.ticket import table as overview
from tombola.ticket.base import Base
from tombola.ticket.frozen import FrozenPart
from tombola.ticket.origin import Origin
from tombola.ticket.representation import Representation, signs_of
from tombola.ticket.rounding import Values
from tombola.ticket.table import LayerRow
from tombola.ticket.tensors import (
    first_few,
    mismatches,
    same_bits,
    show,
    tensors_of,
    ties,
    write_into,
)
from tombola.ticket.ticket_data import PrunedRule, TicketData

Weights = Literal["final", "origin"]
UNLIMITED = 2**48
"""`max_weights` for the tickets of one's own run, whose network fits in memory."""


def _as_signs(origin: Tensor, kept: Tensor) -> tuple[Tensor, Tensor] | None:
    """Signs and size of kept values, where these and all of the origin's weights have one and the same size."""
    signs = signs_of(origin.detach().to("cpu").reshape(-1))
    return None if signs is None else signs_of(kept, signs[1])


@dataclass(frozen=True, eq=False)
class Ticket(TicketData):
    """A subnetwork with its origin; make one with `Ticket.from_models`. Its fields are described in `TicketData`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.check(self)

    def __repr__(self) -> str:
        method = self.provenance.get("method")
        name = method.get("name") if isinstance(method, Mapping) else None
        method_text = (
            f"found by {name}, " if isinstance(name, str) and name.isprintable() and 0 < len(name) <= 200 else ""
        )
        return f"Ticket({method_text}{self.mask.kept:,} of {self.mask.total:,} kept, density {self.mask.density:.4g})"

    # -- making

    @classmethod
    def from_models(
        cls,
        *,
        origin: Origin,
        mask: Mask,
        final_state: Mapping[str, Tensor],
        provenance: Mapping[str, Any],
        representation: Representation | None = None,
        multiplier: Mapping[str, Tensor] | None = None,
        pruned_rule: PrunedRule = "zero",
        pruned_values: Mapping[str, Tensor] | None = None,
        begin: Mapping[str, Tensor] | None = None,
        rewrites: Sequence[Mapping[str, Any]] = (),
        frozen: Mapping[str, FrozenPart] | None = None,
        model: nn.Module | None = None,
        trusted: Sequence[str] = (),
    ) -> Ticket:
        """The ticket of a finished search: what differs from the origin is stored, bit for bit.

        `final_state`: the trained network's full state under its own names; of masked weights the latent
        values at kept positions are read (effective ones if `representation.on` is "origin"), the pruned ones
        are not. Layers of signed constants that are so at the origin too take a sign for each.
        `model`, `trusted`: only for a seeded origin whose network is not Tombola's own. Raises TicketError.
        """
        base = origin.state_dict(model, trusted)
        problems = mismatches(base, final_state)
        if problems:
            raise TicketError(f"the final state does not fit the origin: {first_few(problems)}")
        groups = {**ties(base, mask), **ties(final_state, mask)}
        tied = {alias: owner for alias, owner in groups.items() if owner in mask and alias not in mask}
        bare = cls(
            origin=origin,
            mask=mask,
            representation=representation or Representation(),
            multiplier=multiplier,
            pruned_rule=pruned_rule,
            pruned_values=pruned_values,
            begin=begin,
            rewrites=tuple(rewrites),
            tied=tied,
            provenance=provenance,
            frozen={name: part for name, part in (frozen or {}).items() if part.agrees(mask[name].cpu().numpy())},
        )
        checks.check_against(bare, base)
        trained: dict[str, Tensor] = {}
        for name, keep in bare.mask.items():
            kept = final_state[name].detach().to("cpu")[keep]
            if bare.representation.keeps_signs_only(name):
                kept = torch.sign(kept.double()).to(torch.int8)
            if not same_bits(bare.effective(name, base[name], kept), bare.effective(name, base[name], None)):
                trained[name] = kept
        state = {
            name: value
            for name, value in final_state.items()
            if name not in bare.mask and name not in tied and not same_bits(value, base[name])
        }
        fields = {name: getattr(bare, name) for name in bare.__dataclass_fields__}
        if bare.representation.kind == "identity" and not bare.begin:
            signs = {name: _as_signs(base[name], value) for name, value in trained.items()}
            constants = {name: pair for name, pair in signs.items() if pair is not None}
            trained |= {name: value for name, (value, _) in constants.items()}
            if constants:
                fields["representation"] = Representation(
                    "signed_constant", {name: size for name, (_, size) in constants.items()}
                )
        return cls(**{**fields, "state": state, "trained": trained or None})

    # -- using

    @checked
    def build(
        self,
        weights: Weights = "final",
        model: nn.Module | None = None,
        trusted: Sequence[str] = (),
        *,
        base: Base | None = None,
    ) -> nn.Module:
        """A plain module in train mode whose named parameters are the effective weights; nothing is attached.

        The ticket's rewrites come last, on the finished weights.

        "final": the trained subnetwork. "origin": the masked weights and everything else before training, which a
        ticket saved without its origin does not have.
        `model`: a module of the right architecture, which is copied; needed, or else `trusted` import
        prefixes ("torchvision.models.",), unless the network is one of Tombola's own.
        `base`: of a ticket `on_base` that base: a network, its state_dict, or its file; by default `model` is it. It is
        not changed. Raises TicketError, also where it is another base.
        """
        if weights not in get_args(Weights):
            raise TicketError(f"weights={show(weights)} is unknown; use one of {get_args(Weights)}")
        final = weights == "final"
        omitted = final and self.origin.omitted
        module = self._before_training(final, model, trusted, base)
        before = tensors_of(module)
        checks.check_against(self, before)
        trained = (self.trained or {}) if final else {}
        masked = {name: self.effective(name, before[name], trained.get(name), final=final) for name in self.mask}
        aliases = {alias: masked[owner] for alias, owner in self.tied.items()}
        state = dict(self.state) if final else {}
        if final and self.origin.kind in ("omitted", "base"):
            again = {alias: owner for alias, owner in self.origin.tied.items() if alias not in (self.origin.base or {})}
            state |= {alias: state[owner] for alias, owner in again.items() if owner in state}
        # Masked weights come last, so that they win where the module ties another name to them. Without an origin they
        # and the state must be all that the module has.
        write_into(module, {**state, **aliases, **masked}, subset=not omitted)
        try:
            return apply_rewrites(module, self.rewrites).train()
        except TombolaError as error:
            raise TicketError(f"the ticket's rewrites cannot be applied: {error}") from error

    def _before_training(
        self, final: bool, model: nn.Module | None, trusted: Sequence[str], base: Base | None
    ) -> nn.Module:
        """A module with the origin's values; of the final network it may have others where these are not needed."""
        origin = self.origin
        if base is not None or (final and origin.kind == "base"):
            module = origin.module_on(base, model, trusted, held=self.state)
            checks.check_known(self, tensors_of(module))
            return module if final else origin.network_module(module)
        return (origin.bare_module if final and origin.omitted else origin.network_module)(model, trusted)

    # -- files

    def to_bytes(self) -> bytes:
        """The file's bytes: equal tickets give equal bytes, in any process with the same zlib."""
        return container.pack(*codec.encode(self))

    @classmethod
    def from_bytes(cls, data: bytes, *, max_weights: int | None = None) -> Ticket:
        """The ticket in `data`; TicketError for anything that is not a sound ticket.

        `max_weights`: more weights, under the masks or in the network that the ticket names, are refused before
        memory is taken. By default 2^24, and 256 for each byte of `data`.
        """
        header, tensors = container.unpack(data)
        with codec.sound():
            return cls(**codec.decode(header, tensors, len(data), max_weights))

    def rounded(self, values: Values) -> Ticket:
        """This ticket with wider trained values rounded to `values`; see `rounding.rounded`."""
        changed = rounding.rounded(self, values)
        return self if changed is None else replace(self, **changed)

    def without_origin(self) -> Ticket:
        """This ticket without the stored weights it started from, for inference alone; see `omit`.

        `build("final")` gives the same network, bit for bit; `build("origin")`, `verify` and searches that go on from
        it are refused. It is another ticket with a digest of its own; its provenance names that of the whole ticket
        (`whole_ticket`). A seeded origin takes no space and stays: then this is the ticket itself.
        """
        changed = omit.without_origin(self)
        if not changed:
            return self
        return replace(self, **changed, provenance={**self.provenance, "whole_ticket": self.digest})

    @checked
    def on_base(self, base: Base, model: nn.Module | None = None, trusted: Sequence[str] = ()) -> Ticket:
        """This ticket with its base named by content instead of held: its file has the mask, and what the base lacks.

        `build(base=...)` gives the same network, bit for bit, and refuses any other base. Layers that the base lacks,
        such as a head of another size, are held: masked ones whole, others as they were trained. Where there are
        unmasked ones the ticket cannot be trained again. It is another ticket; its provenance names this one's digest
        (`whole_ticket`).

        Args:
            base: the network, its state_dict, or the file of the checkpoint that the search started from.
            model: the ticket's own network, where it is drawn from a seed and is not one of Tombola's own.
            trusted: or import prefixes for it, as in `build`.

        Raises:
            TicketError: the base has none of the masked weights, or the ticket was saved without its origin.
        """
        changed = on_base.on_base(self, base, model, trusted)
        if not changed:
            return self
        return replace(self, **changed, provenance={**self.provenance, "whole_ticket": self.digest})

    @checked
    def save(self, path: str | os.PathLike[str], values: Values | None = None, *, origin: bool | None = None) -> str:
        """Write the file, whole or not at all, and return its digest. TombolaError if it cannot.

        `values`: "float32", "float16", "bfloat16" or "int8" (with a step for each row) writes the ticket `rounded` to
        that; by default nothing is rounded. `origin`: False writes it `without_origin`, for inference alone; True asks
        for the weights that it started from, which a ticket that was saved without them lacks; by default what there
        is is written.
        """
        if origin and self.origin.omitted:
            raise TombolaError(
                "the ticket's origin was left out before, so it cannot be saved with it; save the whole ticket, or "
                "do not ask for its origin"
            )
        ticket = self.without_origin() if origin is False else self
        written = ticket if values is None else ticket.rounded(values)
        data = written.to_bytes()
        write_bytes(Path(path), data)
        return written.digest

    @classmethod
    @checked
    def load(cls, path: str | os.PathLike[str], *, max_weights: int | None = None) -> Ticket:
        """Read a ticket file; TicketError, with the file's name, for anything that is not a sound ticket.

        `max_weights` as in `from_bytes`.
        """
        with container.located(path):
            return cls.from_bytes(container.read_bytes(path), max_weights=max_weights)

    @staticmethod
    @checked
    def from_hub(
        repo_id: str,
        filename: str = "network.ticket",
        *,
        revision: str | None = None,
        max_weights: int | None = None,
    ) -> Ticket:
        """Download a ticket from the Hugging Face Hub (kept in its cache), and load it. Needs `tombola[hub]`.

        `repo_id`: "user/name". `revision`: branch, tag or commit. `max_weights` as in `load`. Access rights are those
        of `hf auth login`. TombolaError if the Hub has no such file or cannot be reached; TicketError as in `load`.
        """
        from tombola.ticket.hub import pull

        return pull(repo_id, filename, revision=revision, max_weights=max_weights)

    @checked
    def push_to_hub(
        self,
        repo_id: str,
        filename: str = "network.ticket",
        *,
        values: Values | None = None,
        origin: bool | None = None,
        verdict: Any = None,
        milliseconds: Mapping[str, float] | None = None,
        machine: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        replace_card: bool = False,
    ) -> str:
        """Put the ticket into a repository of the Hugging Face Hub, made where it is missing; the commit's address.

        A model card goes along where there is none, or with `replace_card`: what is kept, the verdict, sizes, times.
        `values`, `origin`: as of `save`. `verdict`: what `verify` gave, the folder of its run as a `pathlib.Path`, or
        a sentence. `milliseconds`: what was timed -> ms, with the `machine` (processor and threads) that it was timed
        on. `private`: of a new repository. Needs `tombola[hub]`, and write access by `hf auth login`. TombolaError if
        the Hub refuses.
        """
        from tombola.ticket.hub import push

        return push(
            self,
            repo_id,
            filename,
            saved={"values": values, "origin": origin},
            told={"verdict": verdict, "milliseconds": milliseconds, "machine": machine},
            private=private,
            revision=revision,
            replace_card=replace_card,
        )

    @staticmethod
    def look(path: str | os.PathLike[str], *, max_weights: int | None = None) -> overview.FileSummary:
        """What a ticket file holds; nothing is decoded where it claims more weights than `load` reads.

        For `table.info` and `table.table`, which are `info()` and `table()` of a ticket. TicketError as in `load`.
        """
        with container.located(path):
            data = container.read_bytes(path)
            header, tensors = container.unpack(data)
            with codec.sound():
                codec.check_lists(header, tensors)
                room = codec.room_for(header, len(data), max_weights)
                few = room.claimed(entry["shape"] for entry in header["masks"]) <= room.limit
                parts = Ticket(**codec.decode(header, tensors, len(data), max_weights)) if few else None
        return overview.FileSummary(header, len(data), parts)

    @property
    def digest(self) -> str:
        """The ticket's identity, 64 hex digits: the sha256 of its JSON and tensors, however a file codes them."""
        return codec.digest(self)

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Ticket) else NotImplemented

    def __hash__(self) -> int:
        return int(self.digest[:15], 16)

    # -- looking

    @property
    def density(self) -> float:
        """Kept / all weights under the mask, 0..1."""
        return self.mask.density

    @property
    def parameters(self) -> dict[str, int | None]:
        """What the density is a fraction of: {"total": parameters of the network or None, "prunable": weights}."""
        return overview.parameters(self.provenance, self.mask.total)

    @property
    def barred_kept(self) -> int:
        """How many of the kept weights the criterion bars (too few others were left), from the provenance."""
        return overview.barred_kept(self.provenance, self.mask.kept)

    @property
    def recipe(self) -> dict[str, Any] | None:
        """How the ticket's network was trained, from its provenance; None where it is not recorded."""
        return overview.recipe(self.provenance)

    def layers(self) -> list[LayerRow]:
        """One row per masked layer, in the mask's order."""
        return overview.layers(self)

    def info(self) -> dict[str, Any]:
        """What the ticket holds, as JSON-able data; sizes in bytes."""
        return overview.info(overview.file_summary(self))

    def table(self) -> str:
        """The layers, the total and the file size as plain text."""
        return overview.table(overview.file_summary(self))
