"""What `import tombola as tb` offers, in whatever order its parts are imported."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from inspect import ismodule
from pathlib import Path
from typing import get_type_hints

import pytest

import tombola as tb
from tombola.study.double_descent.kinds import KINDS

ORDERS = {
    "the package first": "import tombola.select.topk\nfrom tombola.select import topk\nimport tombola as tb\n",
    "the function first": "import tombola as tb\ntb.select\nimport tombola.select.criteria\n",
}


@pytest.mark.parametrize("order", ORDERS)
def test_select_is_the_function_whatever_was_imported_before(order: str) -> None:
    code = (
        ORDERS[order]
        + "import inspect, tombola.select\nfrom tombola.select import select\nfrom tombola import select as same\n"
        "assert inspect.isfunction(tb.select) and tb.select is select is same is tombola.select\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    "before",
    [
        "import tombola.deploy.plan",
        "import tombola.deploy.deploy",
        "from tombola.deploy.kernels import sparse",
        "import tombola as tb\ntb.deploy",
        "import tombola.bench.bench",
    ],
)
def test_deploy_is_the_function_whatever_was_imported_before(before: str) -> None:
    code = (
        f"{before}\nimport inspect, tombola as tb, tombola.deploy\nimport tombola.deploy.kernels.sparse.region\n"
        "from tombola import deploy as same\nfrom tombola.deploy import deploy, export\n"
        "from tombola.deploy.deploy import deploy as home\nfrom tombola.deploy.plan import Plan\n"
        "assert inspect.isfunction(tb.deploy) and tb.deploy is deploy is same is home is tombola.deploy\n"
        "assert inspect.ismodule(export) and Plan.__module__ == 'tombola.deploy.plan'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_results_is_the_function_whatever_was_imported_before() -> None:
    code = (
        "import tombola.results.record\nfrom tombola.results import results\nimport tombola as tb\n"
        "assert tb.results is results is tombola.results\nimport tombola.results.search\nassert tb.results is results\n"
        "import sys\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, tombola\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", [name for name in tb.__all__ if not ismodule(getattr(tb, name))])
def test_every_public_name_is_what_its_home_defines(name: str) -> None:
    found = getattr(tb, name)
    assert getattr(import_module(found.__module__), name) is found
    assert name in dir(tb)
    assert found.__doc__


@pytest.mark.parametrize("name", [name for name in tb.__all__ if hasattr(getattr(tb, name), "__wrapped__")])
def test_what_checks_its_arguments_can_read_its_own_hints(name: str) -> None:
    assert get_type_hints(getattr(tb, name))


def test_the_verbs_of_learned_masks_stand_side_by_side() -> None:
    assert {"attach", "refresh", "read", "detach", "make_permanent", "TopK", "hold", "select"} <= set(tb.__all__)


STUDIES = ("double_descent", "connectivity", "landscape", "initialisations", "regime", "sweep", "reproduce")


@pytest.mark.parametrize("name", STUDIES)
def test_what_a_study_is_asked_and_gives_is_public_beside_it(name: str) -> None:
    written = inspect.unwrap(getattr(tb, name)).__annotations__
    assert written["return"] in tb.__all__
    assert written.get("plan", "Recipe | None").removesuffix(" | None") in tb.__all__


def test_every_kind_of_double_descent_is_public() -> None:
    assert {kind.__name__ for kind in KINDS.values()} <= set(tb.__all__)


def test_packages_are_public_names_too() -> None:
    folders = {path.parent.name for path in Path(tb.__file__).parent.glob("*/__init__.py")} - {"cli", "fingerprint"}
    assert folders <= set(tb.__all__) == set(dir(tb))
    assert tb.compact.__doc__
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = tb.nothing_of_the_kind
