"""The arms of the studies that come with Tombola, as the command line makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tombola.cli.studies import arms_of_definition
from tombola.data.config import DataSpec
from tombola.models.spec import ModelSpec
from tombola.study.definition import FIXED, read_definition
from tombola.study.setting import Arm, Setting


def fixed_arms(name: str, model: str = "mlp", recipe: Mapping[str, Any] | None = None, **options: Any) -> list[Arm]:
    """The arms of a study on digits; `recipe` is what the command line says for all of them."""
    definition = read_definition(FIXED / f"{name}.yaml")
    setting = Setting(ModelSpec(model), DataSpec("digits"), recipe or {}, definition.options()(**options))
    return arms_of_definition(definition, name, setting)
