"""Supermasks put on any model."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tombola.coverage import coverage
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.mask import Mask
from tombola.names import unknown
from tombola.nn.init import NORMS, fans, scheme_named
from tombola.nn.outputs import say_kept
from tombola.parameters import holders, parameters_by_name, prunable, resolve, transposed, unwrap
from tombola.rng import philox
from tombola.rng.seeds import derive
from tombola.select.checks import check_upright
from tombola.select.patterns import parse_pattern
from tombola.supermask.layers import Groups, groups, layers
from tombola.supermask.masks import refresh
from tombola.supermask.parametrization import Supermask, Watch
from tombola.supermask.represent import Identity, Represent
from tombola.supermask.rules import MaskRule, TopK
from tombola.supermask.weights import FROZEN, WeightRule

FROZEN_BY_US = "_tombola_froze"
ORDER = "_tombola_order"
"""Of a module's parameters, which taking parametrisations off would change."""
Rest: TypeAlias = Literal["frozen", "norms", "trained"]


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
    train: Sequence[str] = (),
    mask: Mask | None = None,
    outputs: Collection[str] | None = None,
    fused: bool = True,
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
        include: name patterns, as in `prunable`.
        exclude: name patterns of what is left out.
        rest: what is done with all other parameters: "trained", "norms" (only norm layers are trained) or
            "frozen", until `make_permanent`; default: trained if the weights are, else frozen.
        train: name patterns of other parameters that are trained whatever `rest` says, such as a new head's.
        mask: start from scores under which this mask is what the rule keeps first.
        outputs: names of the output layers' weights, which the channel pattern keeps whole (and does not count), as
            their rows are the network's outputs; default the last prunable weight. `()` prunes them like any other.
        fused: False computes masks and gradients by their definitions in plain torch (`MaskRule.mask`, `.slope`)
            instead of in compiled loops; the results are the same.

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
    if isinstance(rule, TopK):
        check_upright(model, chosen, parse_pattern(rule.pattern))
    if mask is not None and mask.keys() != chosen.keys():
        odd = sorted(mask.keys() ^ chosen.keys())
        raise TombolaError(f"the start mask and the model differ in {odd[0]!r}; give the same include and exclude")
    owners = holders(model)
    _check_unparametrized(chosen, owners)
    begin = rule.start if scores is None else scores
    turned = transposed(model)
    made = {name: start_scores(begin, name, weight, seed, name in turned) for name, weight in chosen.items()}
    if mask is not None:
        _check_shapes(mask, chosen)
        lifted = rule.scores_from_mask(made, mask)
        made = {name: torch.empty_like(scores).copy_(lifted[name]) for name, scores in made.items()}  # lying as before
    trained = _to_train(model, chosen, train)
    watch = Watch()
    for name in outputs or ():
        resolve(parameters_by_name(model, tied=True), name)
    spared = [name for name in (list(prunable(model))[-1:] if outputs is None else outputs) if name in chosen]
    if outputs is None and isinstance(rule, TopK) and rule.pattern == "channel":
        say_kept(spared, "attach(outputs=())")
    for position, (name, weight) in enumerate(chosen.items()):
        supermask = Supermask(
            name,
            position,
            weight,
            made[name],
            rule=rule,
            weights=weights,
            represent=stands_for,
            seed=seed,
            watch=watch,
            fused=fused,
        )
        supermask.is_output = name in spared
        weight.requires_grad_(weights.trained and weight.requires_grad)
        for module, local in owners[name]:
            module.__dict__.setdefault(ORDER, tuple(module._parameters))
            parametrize.register_parametrization(module, local, supermask, unsafe=True)
    _freeze_rest(model, rest or ("trained" if weights.trained else "frozen"), trained)
    refresh(model)
    return groups(model)


def start_scores(begin: str | float, name: str, weight: Tensor, seed: int, transposed: bool = False) -> Tensor:
    """Scores in the weight's shape, layout and device; float32 for weights in half precision.

    A name in `tombola.nn.init.SCHEMES` draws by the weight's fans; vectors (biases) count their length as fan-in.
    `transposed`: of a matrix that is stored as (inputs, outputs).
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
        fan_in, fan_out = fans(weight, transposed) if weight.dim() > 1 else (max(1, count), max(1, count))
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


def _check_unparametrized(chosen: Mapping[str, Tensor], owners: Mapping[str, list[tuple[nn.Module, str]]]) -> None:
    for name in chosen:
        plain = [
            module._parameters.get(local) is chosen[name] and not isinstance(module, parametrize.ParametrizationList)
            for module, local in owners[name]
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


def _to_train(model: nn.Module, chosen: Mapping[str, Tensor], patterns: Sequence[str]) -> list[Tensor]:
    """The parameters that the patterns name; TombolaError if one names none, or a masked weight."""
    known, named = parameters_by_name(model), dict[str, Tensor]()
    for pattern in patterns:
        found = {name: weight for name, weight in known.items() if fnmatchcase(name, pattern)}
        masked = next((name for name in found if name in chosen), None)
        if not found or masked is not None:
            problem = f"{masked!r}, which is masked; leave that out with exclude" if masked else "no parameter"
            raise TombolaError(f"{pattern!r} of what is to be trained names {problem}")
        named |= found
    return list(named.values())


def _freeze_rest(model: nn.Module, rest: Rest, trained: Sequence[Tensor]) -> None:
    spared = {id(p) for layer in layers(model) for p in (layer.supermask.scores, layer.weight)}
    spared |= {id(p) for p in trained}
    if rest == "norms":
        spared |= {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters()}
    frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in spared and rest != "trained"]
    for parameter in frozen:
        parameter.requires_grad_(False)
    model.__dict__[FROZEN_BY_US] = frozen
