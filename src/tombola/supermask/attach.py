"""Supermasks on any model: attach them, refresh them once per step, read them off, make them permanent."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tombola.coverage import coverage
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.mask import Mask, holders, parameters_by_name, prunable, resolve, unwrap
from tombola.names import unknown
from tombola.nn.init import NORMS, fans, scheme_named
from tombola.nn.outputs import say_kept
from tombola.rng import philox
from tombola.rng.seeds import derive
from tombola.supermask.parametrization import Supermask, Watch, say_stale
from tombola.supermask.represent import Identity, Represent
from tombola.supermask.rules import MaskRule, TopK
from tombola.supermask.weights import FROZEN, WeightRule

_PARAMETRISED = re.compile(r"((?:.*?\.)?)parametrizations\.([^.]+)\.(.+)")  # module, weight, what belongs to it
_FROZEN_BY_US = "_tombola_froze"
_ORDER = "_tombola_order"  # of a module's parameters, which taking parametrisations off would change
_PLAIN = "no supermasks are attached to this model; call attach first"
Rest: TypeAlias = Literal["frozen", "norms", "trained"]


class Groups(NamedTuple):
    """The parameters that learn: `[{"params": groups.scores, "lr": 0.1}, {"params": groups.weights, "lr": 0.01}]`.

    `weights` holds everything else that is trained; it is empty where nothing is.
    """

    scores: list[nn.Parameter]
    weights: list[nn.Parameter]

    def __repr__(self) -> str:
        return f"Groups({len(self.scores)} scores, {len(self.weights)} weights)"


class MaskedLayer(NamedTuple):
    """One masked weight: its name before anything was attached, its supermask, and the latent weight."""

    name: str
    supermask: Supermask
    weight: nn.Parameter


@checked
def attach(
    model: nn.Module,
    rule: MaskRule | None = None,
    *,
    weights: WeightRule = FROZEN,
    represent: Represent | None = None,
    scores: str | float | None = None,
    seed: int = 0,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rest: Rest | None = None,
    mask: Mask | None = None,
    outputs: Collection[str] | None = None,
) -> Groups:
    """Put a learned mask on every prunable weight of `model`, in place, and write the first masks.

    Then, in any loop: give the groups to an optimiser, call `refresh(model)` after each of its steps, and at the
    end `read(model)` or `make_permanent(model)`. Attach before torch.compile, DDP or FSDP wrap the model. A
    weight that several layers share gets one mask; its first name owns it.

    Args:
        rule: how scores become masks; default `TopK(0.5)`.
        weights: what gradient the weights get; default frozen.
        represent: what the weights stand for; default themselves.
        scores: how scores begin: an initialisation of `tombola.nn.init` (drawn per name from the seed), "unit"
            for uniform over [0, 1), or one number; default the rule's own.
        include, exclude: name patterns, as in `prunable`.
        rest: what is done with all other parameters: "trained", "norms" (only norm layers are trained) or
            "frozen", until `make_permanent`; default: trained if the weights are, else frozen.
        mask: start from scores under which this mask is what the rule keeps first.
        outputs: names of the output layers' weights, which the channel pattern keeps whole (and does not count), as
            their rows are the network's outputs; default the last prunable weight. `()` prunes them like any other.

    Raises:
        TombolaError: nothing to mask, already attached, a wrapped model, or settings that exclude each other.
    """
    rule = rule or TopK()
    stands_for: Represent = represent or Identity()
    _check(model, weights, stands_for, rest)
    chosen = prunable(model, include, exclude)
    if not chosen:
        raise TombolaError(f"the model has no prunable weight: {coverage(model, include, exclude)}")
    _check_floats(chosen)
    if mask is not None and mask.keys() != chosen.keys():
        odd = sorted(mask.keys() ^ chosen.keys())
        raise TombolaError(f"the start mask and the model differ in {odd[0]!r}; give the same include and exclude")
    places = holders(model)
    _check_unparametrized(chosen, places)
    begin = rule.start if scores is None else scores
    made = {name: start_scores(begin, name, weight, seed) for name, weight in chosen.items()}
    if mask is not None:
        _check_shapes(mask, chosen)
        made = rule.scores_from_mask(made, mask)
    watch = Watch()
    for name in outputs or ():
        resolve(parameters_by_name(model, tied=True), name)
    spared = [name for name in (list(prunable(model))[-1:] if outputs is None else outputs) if name in chosen]
    if outputs is None and isinstance(rule, TopK) and rule.pattern == "channel":
        say_kept(spared, "attach(outputs=())")
    for place, (name, weight) in enumerate(chosen.items()):
        supermask = Supermask(
            name, place, weight, made[name], rule=rule, weights=weights, represent=stands_for, seed=seed, watch=watch
        )
        supermask.is_output = name in spared
        weight.requires_grad_(weights.trained and weight.requires_grad)
        for module, local in places[name]:
            module.__dict__.setdefault(_ORDER, tuple(module._parameters))
            parametrize.register_parametrization(module, local, supermask, unsafe=True)
    _freeze_rest(model, rest or ("trained" if weights.trained else "frozen"))
    refresh(model)
    return groups(model)


def groups(model: nn.Module) -> Groups:
    """The score parameters of an attached model, and all others that require a gradient."""
    scores = [layer.supermask.scores for layer in layers(model)]
    own = {id(s) for s in scores}
    return Groups(scores, [p for p in model.parameters() if p.requires_grad and id(p) not in own])


def layers(model: nn.Module) -> Iterator[MaskedLayer]:
    """Every masked weight once, in the order in which they were attached; wrappers are looked through."""
    found: dict[int, MaskedLayer] = {}
    for module in unwrap(model).modules():
        if isinstance(module, parametrize.ParametrizationList):
            supermask = module._modules["0"]
            if isinstance(supermask, Supermask) and id(supermask) not in found:
                weight = module._parameters["original"]
                assert weight is not None
                found[id(supermask)] = MaskedLayer(supermask.name, supermask, weight)
    yield from sorted(found.values(), key=lambda layer: layer.supermask.place)


@torch.no_grad()
@checked
def refresh(model: nn.Module, *, sample: bool = True) -> None:
    """Write all masks from the present scores: once after every optimiser step, never between forward and backward.

    Evaluation, compiled code and exports use the masks as they stand. One selection covers all layers where the
    scope is global. On equal scores all ranks get equal masks.

    Args:
        sample: False takes the likeliest mask of a stochastic rule (p > 0.5) instead of drawing one.

    Forgotten, that is a `StaleMaskWarning`, once a model: scores have moved between two forward passes in training
    mode under one mask. Compiled networks do not look.

    Raises:
        TombolaError: no supermasks are attached, or a score is NaN.
    """
    found = list(layers(model))
    if not found:
        raise TombolaError(_PLAIN)
    for rule, supermasks in _by_rule(found).items():
        rule.write(supermasks, sample)
    for layer in found:
        layer.supermask.rescale(layer.weight)
        layer.supermask.refreshed()


@torch.no_grad()
@checked
def finalize_masks(model: nn.Module) -> Callable[[], None]:
    """Make stochastic masks their p > 0.5 masks, until what is returned is called: it puts the drawn ones back.

    Scales follow. What is drawn next is not changed by it. All other masks stand as they are, which a rule that has
    moved on since the last refresh would not give.
    """
    drawn = [layer for layer in layers(model) if layer.supermask.rule.stochastic]
    before = [{name: b.clone() for name, b in layer.supermask.named_buffers()} for layer in drawn]
    for rule, supermasks in _by_rule(drawn).items():
        rule.write(supermasks, sample=False)
    for layer in drawn:
        layer.supermask.rescale(layer.weight)

    @torch.no_grad()
    def restore() -> None:
        for layer, buffers in zip(drawn, before, strict=True):
            for name, buffer in layer.supermask.named_buffers():
                buffer.copy_(buffers[name])

    return restore


@contextmanager
def final_masks(model: nn.Module) -> Iterator[None]:
    """Within it stochastic masks are their p > 0.5 masks, which are what a ticket holds: for evaluation.

        with final_masks(model):
            accuracy = evaluate(model)

    Training then goes on as if nothing had been. Other rules' masks are what they are anyway.
    """
    restore = finalize_masks(model)
    try:
        yield
    finally:
        restore()


def _by_rule(found: Sequence[MaskedLayer]) -> dict[MaskRule, list[Supermask]]:
    by_rule: dict[MaskRule, list[Supermask]] = defaultdict(list)
    for layer in found:
        by_rule[layer.supermask.rule].append(layer.supermask)
    return by_rule


def set_rule(model: nn.Module, rule: MaskRule) -> None:
    """From the next refresh on, masks follow another rule of the same kind (an annealed density, for instance)."""
    for layer in layers(model):
        layer.supermask.rule = rule


@checked
def read(model: nn.Module) -> Mask:
    """The masks as they stand, by the weights' own names, on the CPU: True where the effective weight is kept.

    Without a refresh after the last step they are those from before it, which is a `StaleMaskWarning`.
    """
    _say_stale(model, "the mask read is the one from before")
    return Mask({layer.name: (layer.supermask.mask != 0).cpu() for layer in _some(model)})


def multipliers(model: nn.Module) -> dict[str, Tensor] | None:
    """The int8 masks of rules with more values than two, on the CPU; None for others."""
    found = {
        layer.name: layer.supermask.mask.detach().to("cpu", copy=True).contiguous()
        for layer in _some(model)
        if layer.supermask.rule.values is torch.int8
    }
    return found or None


@checked
def make_permanent(model: nn.Module) -> Mask:
    """Replace every masked weight by its effective value, take the supermasks off, and return the mask.

    Masks follow the present scores: a stochastic one becomes its p > 0.5 mask, and one that was not refreshed after the
    last step is refreshed, with a `StaleMaskWarning`, as the network was evaluated under another. The model is plain
    afterwards; what `attach` froze is trainable again. To train the weights on under the mask: `hold(model, mask)`.
    """
    _say_stale(model, "the mask made permanent is that of the present scores")
    refresh(model, sample=False)
    mask = read(model)
    with torch.no_grad():
        effective = [layer.supermask(layer.weight) for layer in layers(model)]
        for weight, value in zip(_detach(model), effective, strict=True):
            weight.copy_(value)
    return mask


@checked
def detach(model: nn.Module) -> None:
    """Take the supermasks off and leave the latent weights as they are, unmasked."""
    _detach(model)


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict under the names from before `attach`: latent weights, without scores and masks."""
    return plain_names(unwrap(model).state_dict())


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict of an attached model under the plain model's names."""
    parts = {name: _PARAMETRISED.fullmatch(name) for name in state}
    ours = {found.group(1, 2) for found in parts.values() if found and found[3] == "0.scores"}
    plain = {}
    for name, found in parts.items():
        if found is None or found.group(1, 2) not in ours:
            plain[name] = state[name]
        elif found[3] == "original":
            plain[f"{found[1]}{found[2]}"] = state[name]
    return plain


def start_scores(begin: str | float, name: str, weight: Tensor, seed: int) -> Tensor:
    """Scores in the weight's shape, layout and device; float32 for weights in half precision.

    A name in `tombola.nn.init.SCHEMES` draws by the weight's fans; vectors (biases) count their length as fan-in.
    """
    scores = torch.empty_like(
        weight, dtype=torch.promote_types(weight.dtype, torch.float32), requires_grad=False
    ).detach()
    if not isinstance(begin, str):
        if not math.isfinite(begin):
            raise TombolaError(f"scores begin at {begin}; give a finite number, or the name of an initialisation")
        return scores.fill_(begin)
    key, count = derive(seed, "scores", name), weight.numel()
    if begin == "unit":
        values = philox.uniform(key, count)
    else:
        fan_in, fan_out = fans(weight) if weight.dim() > 1 else (max(1, count), max(1, count))
        values = scheme_named(begin).draw(key, count, fan_in, fan_out)
    return scores.copy_(torch.from_numpy(values).reshape(weight.shape))


def _check(model: nn.Module, weights: WeightRule, represent: Represent, rest: str | None) -> None:
    if unwrap(model) is not model:
        raise TombolaError(
            f"the model is wrapped in {type(model).__name__}; attach to the bare model first, then wrap it"
        )
    if next(layers(model), None) is not None:
        raise TombolaError("supermasks are attached to this model already; call make_permanent or detach first")
    if rest not in (None, *get_args(Rest)):
        raise TombolaError(unknown("rest", rest, get_args(Rest)))
    if weights.trained and not represent.trainable:
        raise TombolaError(
            f"no gradient reaches weights that are represented as {represent.kind}; freeze them, or represent "
            "them as they are or as binary"
        )


def _check_floats(chosen: Mapping[str, Tensor]) -> None:
    for name, weight in chosen.items():
        if not weight.is_floating_point():
            raise TombolaError(f"{name!r} is {weight.dtype}; masks are learned for floating-point weights only")
        if weight.is_meta:
            raise TombolaError(f"{name!r} lies on the meta device; give it values first")
        if weight.numel() == 0:
            raise TombolaError(f"{name!r} has no elements; leave it out with exclude")


def _check_unparametrized(chosen: Mapping[str, Tensor], places: Mapping[str, list[tuple[nn.Module, str]]]) -> None:
    for name in chosen:
        plain = [
            module._parameters.get(local) is chosen[name] and not isinstance(module, parametrize.ParametrizationList)
            for module, local in places[name]
        ]
        if not all(plain):
            raise TombolaError(
                f"{name!r} is parametrised or pruned by other means already; make that permanent, or leave it out "
                "with exclude"
            )


def _check_shapes(mask: Mask, chosen: Mapping[str, Tensor]) -> None:
    for name, kept in mask.items():
        if kept.shape != chosen[name].shape:
            raise TombolaError(
                f"the start mask of {name!r} has shape {tuple(kept.shape)}, the weight {tuple(chosen[name].shape)}; "
                "give the mask of the same network"
            )


def _say_stale(model: nn.Module, what: str) -> None:
    say_stale((layer.supermask for layer in layers(model)), what)


def _some(model: nn.Module) -> list[MaskedLayer]:
    """All layers under their names in `model`, which parts that were attached by themselves do not know."""
    found = list(layers(model))
    if not found:
        raise TombolaError(_PLAIN)
    names = {id(weight): name for name, weight in parameters_by_name(model).items()}
    return [layer._replace(name=names.get(id(layer.weight), layer.name)) for layer in found]


def _freeze_rest(model: nn.Module, rest: Rest) -> None:
    spared = {id(p) for layer in layers(model) for p in (layer.supermask.scores, layer.weight)}
    if rest == "norms":
        spared |= {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters()}
    frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in spared and rest != "trained"]
    for parameter in frozen:
        parameter.requires_grad_(False)
    model.__dict__[_FROZEN_BY_US] = frozen


def _detach(model: nn.Module) -> list[nn.Parameter]:
    """Take the parametrisations off; the latent weights, in the order of `layers`, trainable as they were."""
    found = _some(model)
    bare = unwrap(model)
    places = [
        (module, local)
        for module in bare.modules()
        if parametrize.is_parametrized(module)
        for local, chain in list(module.parametrizations.items())  # type: ignore[union-attr, operator]
        if isinstance(chain[0], Supermask)
    ]
    for module in {id(module): module for module, _ in places}.values():
        _class_of_its_own(module)
    for module, local in places:
        parametrize.remove_parametrizations(module, local, leave_parametrized=False)
    for module in bare.modules():
        _put_in_order(module._parameters, module.__dict__.pop(_ORDER, ()))
    for layer in found:
        layer.weight.requires_grad_(layer.supermask.was_trained)
    for module in bare.modules():
        for parameter in module.__dict__.pop(_FROZEN_BY_US, []):
            parameter.requires_grad_(True)
    return [layer.weight for layer in found]


def _put_in_order(parameters: dict[str, nn.Parameter | None], order: Sequence[str]) -> None:
    """The names of `order` as they follow there, then all others: an optimiser's state goes by place."""
    for name in [*(name for name in order if name in parameters), *(name for name in parameters if name not in order)]:
        parameters[name] = parameters.pop(name)


def _class_of_its_own(module: nn.Module) -> None:
    """Deep copies share the class that holds the parametrised weights; what is taken off here must stay there."""
    shared = type(module)
    own = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, own)
