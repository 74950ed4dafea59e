"""The arms that a ticket is held against, drawn by hand: weights, masks, starts and seeds; nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from small_tickets import MASKED, mask_of, masked, network, same, splits, ticket_of
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.nn.binary import BinaryActivation
from tombola.results.crossed import Sample, crossed_difference, crossed_mean
from tombola.results.statistics import holm, interval, paired_difference
from tombola.results.verification import BoundAlone, SeedsAlone, UntrainedArm, UntrainedClaim, UntrainedResult
from tombola.rng.seeds import derive, generator
from tombola.study import arms as module
from tombola.study.arms import ARMS, VerificationSetup, fresh_network, random_like, random_mask, run_arm, try_arms
from tombola.study.untrained import _CONTROLS, is_untrained, untrained, untrained_sentence
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.representation import Representation
from tombola.ticket.ticket import Ticket
from tombola.train.evaluate import Score
from tombola.train.fabric import make_fabric
from tombola.train.recipe import Recipe
from tombola.train.trial import TrainingSetup


def rewound(steps: Any) -> dict[str, Any]:
    return {"rewound_steps": steps}


# -- arms


@pytest.mark.parametrize("seeded", [False, True])
def test_arms_differ_from_the_ticket_in_mask_or_weights_alone(seeded: bool) -> None:
    model = network()
    ticket = ticket_of(model, seeded, provenance=rewound(7))
    subject = VerificationSetup(ticket, model)
    origin = ticket.origin.state_dict(model)
    made = {name: make(subject, 5) for name, make in ARMS.items()}
    assert {name: arm.start for name, arm in made.items()} == {"ticket": 7, "dense": 7, "random": 0, "reinit": 0}
    assert made["dense"].mask is None
    assert made["ticket"].mask == made["reinit"].mask == ticket.mask
    assert made["random"].mask == random_mask(ticket, 5) != ticket.mask
    assert same(made["dense"].model.state_dict(), origin)
    assert same(made["ticket"].model.state_dict(), masked(origin, ticket.mask))
    fresh = fresh_network(subject, 5).state_dict()
    assert same(made["random"].model.state_dict(), fresh)
    assert same(made["reinit"].model.state_dict(), fresh)
    assert same(model.state_dict(), network().state_dict())  # the caller's model is not touched


def test_fresh_weights_of_a_seeded_origin_come_from_its_scheme_with_its_arguments() -> None:
    model = network()
    fresh = fresh_network(VerificationSetup(ticket_of(model, seeded=True), model), 5)
    expected = Origin.seeded(None, "kaiming_normal", derive(5, "reinit"), model=model, init_args={"scale_fan": 0.5})
    assert same(fresh.state_dict(), expected.state_dict(model))


def test_fresh_weights_of_a_stored_origin_are_permuted_in_every_masked_layer() -> None:
    model = network()
    origin = model.state_dict()
    fresh = fresh_network(VerificationSetup(ticket_of(model), model), 5).state_dict()
    draw = generator(5, "reinit")
    for name, value in origin.items():
        flat = value.flatten()
        expected = flat[torch.randperm(len(flat), generator=draw)].view_as(value) if name in MASKED else value
        assert torch.equal(fresh[name], expected), name


def test_a_network_by_import_path_is_built_for_every_arm_where_it_is_trusted() -> None:
    spec = NetworkSpec("torch.nn.Linear", {"in_features": 6, "out_features": 5})
    ticket = Ticket(
        origin=Origin.stored({"weight": torch.randn(5, 6), "bias": torch.zeros(5)}, network=spec),
        mask=Mask({"weight": torch.arange(30).view(5, 6) % 2 == 0}),
    )
    for make in ARMS.values():
        assert isinstance(make(VerificationSetup(ticket, trusted=("torch.nn.",)), 1).model, nn.Linear)
        with pytest.raises(TombolaError, match="trusted"):
            make(VerificationSetup(ticket), 1)


@pytest.mark.parametrize(
    ("said", "start"), [(0, 0), (3, 3), (2**48 - 1, 2**48 - 1), (2**48, 0), (-1, 0), (True, 0), (1.0, 0), ("1", 0)]
)
def test_the_start_is_a_whole_number_of_steps_or_0(said: Any, start: int) -> None:
    model = network()
    assert VerificationSetup(ticket_of(model, provenance=rewound(said)), model).start == start
    assert VerificationSetup(ticket_of(model), model).start == 0


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_is_trained_from_its_start_under_its_mask_by_a_seed_of_its_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, given = network(), dict[str, Any]()
    subject = VerificationSetup(ticket_of(model, provenance=rewound(7)), model)

    def noting(setup: Any, module: nn.Module, **more: Any) -> str:
        given.update(more, setup=setup, state=module.state_dict())
        return "trial"

    monkeypatch.setattr(module, "run_trial", noting)
    found: Any = run_arm("setup", subject, name, seed=5, stage="stage", label="label")  # type: ignore[arg-type]
    assert found == "trial"
    arm = ARMS[name](subject, 5)
    assert same(given.pop("state"), arm.model.state_dict())
    assert given == {
        "setup": "setup",
        "seed": derive(5, "train"),
        "label": "label",
        "mask": arm.mask,
        "values": None,
        "start": arm.start,
        "stage": "stage",
    }


def test_an_unknown_arm_is_one_line() -> None:
    model = network()
    with pytest.raises(TombolaError, match=r"unknown arm 'dens'.*dense"):
        run_arm(None, VerificationSetup(ticket_of(model), model), "dens", seed=0, stage=None, label="")  # type: ignore[arg-type]


def test_a_dry_run_makes_every_arm_and_trains_the_tickets_under_its_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = network(), list[Any]()
    subject = VerificationSetup(ticket_of(model), model)

    def training(setup: Any, module: nn.Module, *, seed: int) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(1.0)
        module(torch.ones(1, 6))  # what is held is masked again
        seen.append((setup, seed, {name: bool((module.state_dict()[name] != 0).all()) for name in MASKED}))

    monkeypatch.setattr(module, "try_training", training)
    try_arms("setup", subject, seed=5)  # type: ignore[arg-type]
    assert seen == [("setup", 5, dict.fromkeys(MASKED, False))]

    def broken(subject: VerificationSetup, seed: int) -> Any:
        raise RuntimeError("no such layer")

    monkeypatch.setattr(module, "ARMS", {**ARMS, "reinit": broken})
    with pytest.raises(TombolaError, match="the arms of the comparison cannot be made"):
        try_arms("setup", subject, seed=5)  # type: ignore[arg-type]
    assert len(seen) == 1


def test_all_arms_have_the_tickets_activations_and_plain_layers() -> None:
    model = network()
    activations, layers = {"kind": "binary-activations"}, {"kind": "binary-layers", "names": list(MASKED)}
    ticket = ticket_of(model, rewrites=(layers, activations))
    subject = VerificationSetup(ticket, model)
    assert subject.rewrites == (activations,)
    for name, make in ARMS.items():
        built = make(subject, 1).model
        assert isinstance(built[1], BinaryActivation), name
        assert [type(built[index]) for index in (0, 2)] == [nn.Linear] * 2, name


# -- random masks


def test_a_random_mask_keeps_the_largest_of_uniform_draws_layer_by_layer() -> None:
    mask = mask_of(network())
    for seed in (0, 1):
        draw = generator(seed, "random-mask")
        for name, kept in random_like(mask, "element", seed).items():
            scores = torch.rand(kept.shape, generator=draw)
            edge = scores.flatten().sort(descending=True).values[mask.counts()[name][0] - 1]
            assert torch.equal(kept, scores >= edge)


@pytest.mark.parametrize(("pattern", "width"), [("block:4", None), ("2:4", 4)])
def test_a_random_mask_keeps_the_pattern_that_the_ticket_says(pattern: str, width: int | None) -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    kept = torch.zeros(8, 8, dtype=torch.bool)
    kept[:4] = True  # in blocks of 4 output rows: 8 of 16
    if width:
        kept = (torch.arange(64) % 4 < 2).view(8, 8)
    ticket = Ticket(
        origin=Origin.stored(model), mask=Mask({"0.weight": kept}), provenance={"method": {"pattern": pattern}}
    )
    drawn = [random_mask(ticket, seed)["0.weight"] for seed in range(4)]
    assert len({str(one.tolist()) for one in drawn}) == 4
    for one in drawn:
        assert int(one.sum()) == 32
        groups = one.view(8, 2, 4).sum(2) if width else one.view(2, 4, 8).sum(1)
        assert set(groups.flatten().tolist()) == ({2} if width else {0, 4})


@pytest.mark.parametrize("pattern", ["block:4", "inputs:4", "2:4", "channel"])
def test_a_random_mask_of_a_transposed_matrix_has_the_pattern_across_its_outputs(pattern: str) -> None:
    kept = torch.zeros(4, 8, dtype=torch.bool)  # (inputs, outputs)
    kept[:, :4] = True
    if pattern == "2:4":
        kept = (torch.arange(4) < 2).view(4, 1).expand(4, 8)
    provenance = {"method": {"pattern": pattern, "transposed": ["weight"]}}
    ticket = Ticket(
        origin=Origin.stored({"weight": torch.ones(4, 8)}), mask=Mask({"weight": kept}), provenance=provenance
    )
    for seed in range(4):
        drawn = random_mask(ticket, seed)["weight"]
        assert int(drawn.sum()) == 16
        upright = drawn.t().reshape(8, 4)
        groups = upright.view(2, 4, 4).sum(1) if pattern == "block:4" else upright.sum(1)
        assert set(groups.flatten().tolist()) == ({2} if pattern == "2:4" else {0, 4})


def test_draws_do_not_depend_on_torchs_default_dtype_or_device() -> None:
    model = network()
    subject = VerificationSetup(ticket_of(model), model)
    expected = random_mask(subject.ticket, 1), fresh_network(subject, 1).state_dict()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            mask, fresh = random_mask(subject.ticket, 1), fresh_network(subject, 1).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    assert mask == expected[0]
    assert same(fresh, expected[1])


# -- a ticket as it stands


def right(model: nn.Module, data: Any) -> Tensor:
    return (model.eval()(data.test.x).argmax(1) == data.test.y).float()


def judged(ticket: Ticket, model: nn.Module, data: Any, replicates: int = 3, seed: int = 2) -> UntrainedResult:
    setup = TrainingSetup(data, Recipe(batch_size=8), make_fabric("cpu", "32"))
    return untrained(VerificationSetup(ticket, model), setup, seed=seed, replicates=replicates)


def by_hand(ticket: Ticket, model: nn.Module, data: Any, arm: str, index: int, seed: int = 2) -> Tensor:
    """Outcomes of one control: another mask on the same weights, or the same mask on other weights."""
    own, drawn = VerificationSetup(ticket, model), derive(seed, "untrained", arm, index)
    built = ticket.origin.network_module(model) if arm == "random" else fresh_network(own, drawn)
    mask = random_mask(ticket, drawn) if arm == "random" else ticket.mask
    built.load_state_dict(masked(built.state_dict(), mask))
    return right(built, data)


def test_a_ticket_as_it_stands_is_held_against_draws_of_its_controls() -> None:
    model, data = network(), splits()
    ticket = ticket_of(model)
    found = judged(ticket, model, data)
    own = right(ticket.build(model=model), data)
    assert found.test_accuracy == pytest.approx(float(own.mean()))
    outcomes = {
        arm: np.stack([by_hand(ticket, model, data, arm, index).numpy() for index in range(3)])
        for arm in ("random", "reinit")
    }
    differences = {}
    for arm, values in outcomes.items():
        accuracies = values.mean(1)
        assert getattr(found, arm).test_accuracy == pytest.approx(accuracies.tolist())
        assert getattr(found, arm).mean == pytest.approx(accuracies.mean())
        assert getattr(found, arm).covers == "draws of the control and test examples"
        assert getattr(found, arm).interval == pytest.approx(list(crossed_mean(Sample.of(values)).interval or ()))
        alone = np.clip(interval(accuracies.tolist()) or (), 0, 1)
        assert getattr(found, arm).seeds_alone.interval == pytest.approx(alone.tolist())
        crossed = crossed_difference(Sample.of(own.numpy()[None]), Sample.of(values))
        differences[arm] = crossed
        compared = found.comparisons[arm]
        assert compared.difference == pytest.approx(float(own.mean()) - accuracies.mean())
        assert compared.lower == pytest.approx(crossed.lower)
        assert compared.interval == pytest.approx(list(crossed.interval or ()))
        assert compared.p == pytest.approx(crossed.p_value(0.0))
        pairs = paired_difference([float(own.mean()) - float(value) for value in accuracies], [0.0] * 3)
        assert compared.seeds_alone.lower == pytest.approx(pairs.lower)
        assert compared.seeds_alone.interval == pytest.approx(list(pairs.interval or ()))
    adjusted = holm({arm: float(one.p_value(0.0) or 0.0) for arm, one in differences.items()})
    for arm, step in adjusted.items():
        assert found.comparisons[arm].p_holm == pytest.approx(step.p_value)
        assert found.comparisons[arm].lower_holm == pytest.approx(differences[arm].bound(step.error_rate))
    assert judged(ticket, model, data, seed=3).random != found.random


def test_two_draws_have_a_mean_but_decide_nothing() -> None:
    model, data = network(), splits()
    found = judged(ticket_of(model), model, data, replicates=2)
    for arm in ("random", "reinit"):
        assert len(getattr(found, arm).test_accuracy) == 2
        assert (found.comparisons[arm].p, found.comparisons[arm].p_holm) == (None, None)
        assert found.comparisons[arm].covers == "draws of the control and test examples"
    said = untrained_sentence(found, "accuracy")
    assert "better by" not in said
    assert "Holm" not in said
    one = judged(ticket_of(model), model, data, replicates=1)
    assert one.random.interval is None
    assert one.random.seeds_alone.interval is None


def batch_mean(output: Tensor, target: Tensor) -> Tensor:
    return (output.argmax(1) == target).float().mean()


def squares(output: Tensor, target: Tensor) -> Tensor:
    return 1000 * output.square().mean(1)


def test_a_number_for_every_batch_covers_the_draws_alone() -> None:
    model = network()
    plain, whole = (judged(ticket_of(model), model, splits(metric)) for metric in (None, batch_mean))
    for arm in ("random", "reinit"):
        assert getattr(whole, arm).test_accuracy == pytest.approx(getattr(plain, arm).test_accuracy)
        assert getattr(whole, arm).covers == "draws of the control alone"
        assert getattr(whole, arm).interval == getattr(whole, arm).seeds_alone.interval
        assert getattr(whole, arm).interval == pytest.approx(getattr(plain, arm).seeds_alone.interval)
        assert whole.comparisons[arm].covers == "draws of the control alone"
        alone = plain.comparisons[arm].seeds_alone.lower
        assert whole.comparisons[arm].lower == pytest.approx(alone)


def test_bounds_of_a_share_of_examples_end_at_0_and_1_and_others_where_they_fall() -> None:
    model = network()
    share = judged(ticket_of(model), model, splits(batch_mean))
    free = judged(ticket_of(model), model, splits(lambda output, target: batch_mean(output, target) + 50, "score"))
    for arm in ("random", "reinit"):
        low, high = getattr(share, arm).interval
        assert 0 <= low < high <= 1
        assert -1 <= share.comparisons[arm].interval[0] < share.comparisons[arm].interval[1] <= 1
        assert getattr(free, arm).interval == pytest.approx(
            [50 + end for end in interval(getattr(share, arm).test_accuracy) or ()], abs=1e-4
        )


def made_up(monkeypatch: pytest.MonkeyPatch, metrics: list[float], **task: Any) -> dict[str, Any]:
    """What is found where the networks, the ticket's own first, reach these metrics."""
    given = iter(metrics)
    monkeypatch.setattr(TrainingSetup, "scorer", lambda *ignored: lambda: Score(0.0, next(given), 26))
    model = network()
    return judged(ticket_of(model), model, splits(batch_mean, **task))


def test_no_bound_of_a_share_lies_beyond_what_a_share_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = [1.0, 0.0, 0.0, 0.3, 1.0, 1.0, 0.7]
    share, free = made_up(monkeypatch, metrics), made_up(monkeypatch, metrics, name="score")
    low, high = interval([0.0, 0.0, 0.3]) or (0.0, 0.0)
    assert low < 0
    assert share.random.interval == (0.0, pytest.approx(high))
    assert free.random.interval == pytest.approx([low, high])
    low, high = interval([1.0, 1.0, 0.7]) or (0.0, 0.0)
    assert high > 1
    assert share.reinit.interval == (pytest.approx(low), 1.0)
    # of the differences, too
    assert share.comparisons["random"].interval == (pytest.approx(low), 1.0)
    assert free.comparisons["random"].interval == pytest.approx([low, high])


def test_no_bound_over_examples_lies_beyond_what_a_share_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    own, none = torch.tensor([1.0, 1.0, 0.99]), torch.zeros(3)  # no bits, of which it is known anyway
    outcomes = iter([own, none, none, torch.tensor([0.9, 0.0, 0.0]), none, none, none])

    def scorer(*ignored: Any) -> Any:
        values = next(outcomes)
        return lambda: Score(0.0, float(values.mean()), 3, values)

    monkeypatch.setattr(TrainingSetup, "scorer", scorer)
    model = network()
    found = judged(ticket_of(model), model, splits(batch_mean), replicates=3)
    assert found.comparisons["random"].covers == "draws of the control and test examples"
    assert found.comparisons["random"].interval[1] == 1.0


def test_of_an_error_the_lower_one_is_better_by_as_much() -> None:
    model = network()
    more, less = (judged(ticket_of(model), model, splits(squares, "error", higher)) for higher in (True, False))
    for arm in ("random", "reinit"):
        assert getattr(more, arm) == getattr(less, arm)
        one, two = more.comparisons[arm], less.comparisons[arm]
        assert two.difference == pytest.approx(-one.difference)
        assert two.interval == pytest.approx([-end for end in reversed(one.interval)])
        assert abs(two.difference) > 1  # not held to what a share could be


def test_controls_of_a_binary_ticket_have_a_scale_of_their_own_for_every_row_or_layer() -> None:
    model = network()
    weight = model.state_dict()["0.weight"]
    mask = mask_of(model)
    for rows in (True, False):
        size = (weight.abs() * mask["0.weight"]).sum(1, keepdim=True) / mask["0.weight"].sum(1, keepdim=True)
        scales = {"0.weight": size if rows else weight[mask["0.weight"]].abs().mean()}
        ticket = Ticket(
            origin=Origin.stored(model),
            mask=Mask({"0.weight": mask["0.weight"]}),
            representation=Representation("binary", scales),
        )
        subject = VerificationSetup(ticket, model)
        for name, seed in (("random", 1), ("reinit", 2)):
            control = _CONTROLS[name](subject, seed)
            values = control.origin.state_dict(model)["0.weight"].abs()
            kept = control.mask["0.weight"]
            own = (values * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True) if rows else values[kept].mean()
            torch.testing.assert_close(control.representation.scales["0.weight"], own)


def test_shuffled_multipliers_are_drawn_layer_after_layer() -> None:
    model = network()
    multiplier = {
        name: (torch.arange(kept.numel()) % 3 - 1).to(torch.int8).view_as(kept) for name, kept in mask_of(model).items()
    }
    ticket = Ticket(
        origin=Origin.stored(model), mask=Mask({n: m != 0 for n, m in multiplier.items()}), multiplier=multiplier
    )
    control = _CONTROLS["random"](VerificationSetup(ticket, model), 4)
    draw = generator(4, "random-mask")
    for name, values in multiplier.items():
        flat = values.flatten()
        assert control.multiplier is not None
        assert torch.equal(control.multiplier[name], flat[torch.randperm(len(flat), generator=draw)].view_as(values))
        assert torch.equal(control.mask[name], control.multiplier[name] != 0)


def test_only_a_masked_ticket_without_trained_weights_stands_untrained() -> None:
    model = network()
    ticket = ticket_of(model)
    assert is_untrained(ticket)
    assert not is_untrained(replace(ticket, mask=Mask.full(ticket.mask)))
    name = MASKED[0]
    trained = {name: model.state_dict()[name][ticket.mask[name]] + 1}
    assert not is_untrained(replace(ticket, trained=trained))


def normed(**more: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(
            nn.BatchNorm1d(6, momentum=0.25),
            nn.Linear(6, 5),
            nn.Dropout(0.5),
            nn.BatchNorm1d(5, **more),
            nn.Linear(5, 4),
        )


def test_norms_of_controls_hold_the_plain_mean_over_the_batches_of_the_training_splits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, data, seen = normed(track_running_stats=False), splits(), list[nn.Module]()
    model[0].running_mean += 3
    ticket = Ticket(origin=Origin.stored(model), mask=Mask({"1.weight": torch.rand(5, 6) > 0.5}))
    scorer = TrainingSetup.scorer

    def noting(setup: TrainingSetup, built: nn.Module, split: Any) -> Any:
        assert split is data.test
        seen.append(built)
        return scorer(setup, built, split)

    monkeypatch.setattr(TrainingSetup, "scorer", noting)
    before = torch.random.get_rng_state()
    found = judged(ticket, model, data, replicates=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(seen) == 5
    own, *controls = seen
    x = data.train.x  # 24 examples: three batches of 8
    assert torch.equal(own[0].running_mean, model[0].running_mean)
    for control in controls:
        torch.testing.assert_close(control[0].running_mean, x.mean(0))
        assert int(control[0].num_batches_tracked) == 3
        assert control[0].momentum == 0.25
        assert control[3].momentum == 0.1
    assert found == judged(ticket, model, data, replicates=2)


def test_dropout_and_order_of_the_statistics_are_drawn_anew_for_every_control(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, seen = normed(), splits(), dict[int, Tensor]()
    ticket = Ticket(origin=Origin.stored(model), mask=Mask({"4.weight": torch.rand(4, 5) > 0.5}))
    scorer = TrainingSetup.scorer

    def noting(setup: TrainingSetup, built: nn.Module, split: Any) -> Any:
        seen[len(seen)] = built[3].running_mean.clone()
        return scorer(setup, built, split)

    monkeypatch.setattr(TrainingSetup, "scorer", noting)
    judged(ticket, model, data, replicates=2)
    controls = list(seen.values())[1:]
    assert len({str(mean.tolist()) for mean in controls}) == 4  # the same weights below, other draws
    judged(ticket, model, data, replicates=2)
    assert torch.equal(seen[1], seen[6])
    torch.manual_seed(99)
    judged(ticket, model, data, replicates=2)
    assert torch.equal(seen[1], seen[11])


def test_what_was_found_of_a_ticket_as_it_stands_in_words() -> None:
    def part(difference: float, lower: float, covers: str, p: float | None = 0.01) -> UntrainedClaim:
        alone = BoundAlone(lower=lower, interval=None)
        return UntrainedClaim(
            difference=difference,
            lower=lower,
            interval=None,
            covers=covers,
            seeds_alone=alone,
            p=p,
            p_holm=p,
            lower_holm=lower,
        )

    def control(mean: float) -> UntrainedArm:
        alone = SeedsAlone(interval=None)
        return UntrainedArm(test_accuracy=(mean,), mean=mean, interval=None, covers="draws", seeds_alone=alone)

    found = UntrainedResult(
        test_accuracy=0.75,
        random=control(0.25),
        reinit=control(0.5),
        comparisons={"random": part(0.5, 0.4, "draws"), "reinit": part(0.25, -0.1, "draws")},
    )
    said = untrained_sentence(found, "accuracy")
    assert "75.0" in said
    assert "random masks of its layer densities 25.0" in said
    assert "better by +50.00 points, at least +40.00" in said
    assert said.endswith("(bounds over draws, Holm's correction for the two).")
    found.comparisons["reinit"] = part(0.25, -0.1, "all", None)
    said = untrained_sentence(found, "accuracy")
    assert said.count("better by") == 1
    assert "None" not in said
    assert "bounds over draws and all" in said
