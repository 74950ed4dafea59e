"""study mask-rules: one arm per rule, each by its own learning rate, all at one density if asked."""

from __future__ import annotations

import pytest

from fixed_studies import fixed_arms
from tombola.errors import TombolaError
from tombola.methods.edge_popup import EdgePopup
from tombola.methods.learned_mask import LearnedMask


def test_every_rule_has_its_arm_and_its_learning_rate() -> None:
    arms = fixed_arms("mask-rules", intermediate_lr=0.5, popup_lr=0.3)
    rules = [arm.method.rule if isinstance(arm.method, LearnedMask) else arm.name for arm in arms]
    assert rules == ["intermediate", "bernoulli", "threshold", "edge-popup"]
    assert [arm.recipe.lr for arm in arms] == [0.5, 0.1, 0.1, 0.3]
    assert len({(arm.recipe.length, arm.recipe.batch_size) for arm in arms}) == 1
    assert [arm.method.density for arm in arms] == [None, None, None, 0.5]


def test_one_density_is_asked_of_all() -> None:
    arms = fixed_arms("mask-rules", density=0.2, sampling_step=7.0)
    assert [arm.method.density for arm in arms] == [0.2] * 4
    assert all(arm.method.scope == "global" for arm in arms)
    assert isinstance(arms[0].method, LearnedMask)
    assert arms[0].method.sampling_step == 7
    assert isinstance(arms[-1].method, EdgePopup)


def test_what_the_command_line_says_goes_before() -> None:
    arms = fixed_arms("mask-rules", recipe={"lr": 0.7, "length": "3ep"})
    assert {(arm.recipe.lr, arm.recipe.length) for arm in arms} == {(0.7, "3ep")}


def test_a_density_that_cannot_be_is_refused() -> None:
    with pytest.raises(TombolaError, match="density"):
        fixed_arms("mask-rules", density=1.5)
