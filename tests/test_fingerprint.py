"""Fingerprints: another one for every change of what something does, the same one for everything else."""

from __future__ import annotations

import argparse
import copy
import functools
import importlib
import itertools
import os
import subprocess
import sys
import textwrap
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tombola.fingerprint import fingerprint

Make = Callable[[str], ModuleType]
_numbers = itertools.count()

HEAD = """
import argparse, dataclasses, functools, operator, types
import numpy as np, torch
from torch import nn
from torch.nn import functional as F
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Writes a module of a name of its own, imports it, and gives it."""
    monkeypatch.syspath_prepend(tmp_path)

    def made(text: str) -> ModuleType:
        name = f"made_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(HEAD + textwrap.dedent(text))
        importlib.invalidate_caches()
        return importlib.import_module(name)

    return made


def digest(value: Any) -> str:
    found = fingerprint(value)
    assert found.unseen == ()
    return found.digest


CHANGES = {
    "body": ("def thing(o, y): return o.mean() * 1", "1", "2"),
    "constant": ("SCALE = 1\ndef thing(o, y): return o.mean() * SCALE", "SCALE = 1", "SCALE = 2"),
    "a function that it calls": ("def helper(o): return o * 1\ndef thing(o, y): return helper(o)", "o * 1", "o * 2"),
    "two calls away": (
        "def far(o): return o * 1\ndef near(o): return far(o)\ndef thing(o, y): return near(o)",
        "o * 1",
        "o * 2",
    ),
    "functions in a circle": (
        "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)\nthing = even",
        "n != 0",
        "n != 9",
    ),
    "closure": ("def of(a):\n  def inner(o): return o * a\n  return inner\nthing = of(1)", "of(1)", "of(2)"),
    "closure of a lambda": ("def of(a): return lambda o: o * a\nthing = of(1)", "of(1)", "of(2)"),
    "default": ("def thing(o, a=1): return o * a", "a=1", "a=2"),
    "keyword default": ("def thing(o, *, a=1): return o * a", "a=1", "a=2"),
    "partial": ("thing = functools.partial(F.cross_entropy, label_smoothing=0.1)", "0.1", "0.2"),
    "one of two lambdas on a line": (
        "a, b = (lambda o: o + 1), (lambda o: o + 2)\nthing = a",
        "thing = a",
        "thing = b",
    ),
    "inner lambda": ("thing = lambda o: (lambda p: p + 1)(o)", "p + 1", "p + 2"),
    "method": ("class Metric:\n  def __call__(self, o): return o + 1\nthing = Metric()", "o + 1", "o + 2"),
    "state": (
        "class Metric:\n  def __init__(self): self.a = 1\n  def __call__(self, o): return o\nthing = Metric()",
        "= 1",
        "= 2",
    ),
    "slots": ("class M:\n  __slots__ = ('__a',)\n  def __init__(self): self.__a = 1\nthing = M()", "= 1", "= 2"),
    "bound method": ("class M:\n  a = 1\n  def of(self, o): return o * self.a\nthing = M().of", "a = 1", "a = 2"),
    "inherited": ("class A:\n  def f(self): return 1\nclass M(A): pass\nthing = M()", "return 1", "return 2"),
    "property": ("class M:\n  @property\n  def f(self): return 1\nthing = M()", "return 1", "return 2"),
    "static method": ("class M:\n  @staticmethod\n  def f(): return 1\nthing = M.f", "return 1", "return 2"),
    "class method": ("class M:\n  @classmethod\n  def f(cls): return 1\nthing = M.f", "return 1", "return 2"),
    "dataclass": ("@dataclasses.dataclass\nclass M:\n  a: int = 1\nthing = M", "= 1", "= 2"),
    "field's factory": (
        "@dataclasses.dataclass\nclass M:\n  a: list = dataclasses.field(default_factory=lambda: [1])\nthing = M",
        "[1]",
        "[2]",
    ),
    "class made by a function": (
        "def of(a):\n  class M:\n    def f(self): return a\n  return M\nthing = of(1)()",
        "of(1)",
        "of(2)",
    ),
    "decorated": (
        "def two(f):\n  @functools.wraps(f)\n  def w(o): return f(f(o))\n  return w\n@two\ndef thing(o): return o + 1",
        "f(f(o))",
        "f(o)",
    ),
    "within a decorator": (
        "def same(f):\n  @functools.wraps(f)\n  def w(o): return f(o)\n  return w\n@same\ndef thing(o): return o + 1",
        "o + 1",
        "o + 2",
    ),
    "no_grad": ("@torch.no_grad()\ndef thing(o): return o + 1", "o + 1", "o + 2"),
    "cached": ("@functools.lru_cache\ndef thing(o): return o + 1", "o + 1", "o + 2"),
    "dispatched": ("@functools.singledispatch\ndef thing(o): return o + 1", "o + 1", "o + 2"),
    "vectorised": ("thing = np.vectorize(lambda o: o + 1)", "o + 1", "o + 2"),
    "scripted": ("@torch.jit.script\ndef thing(o: torch.Tensor): return o + 1", "o + 1", "o + 2"),
    "scripted module": ("thing = torch.jit.script(nn.Dropout(0.1))", "0.1", "0.2"),
    "traced": ("thing = torch.fx.symbolic_trace(nn.Sequential(nn.ReLU()))", "nn.ReLU", "nn.Tanh"),
    "traced function": (
        "class N(nn.Module):\n  def forward(self, x): return x + 1\nthing = torch.fx.symbolic_trace(N())",
        "x + 1",
        "x + 2",
    ),
    "autograd function": (
        "class Sign(torch.autograd.Function):\n  @staticmethod\n  def forward(c, x): return x + 1\nthing = Sign.apply",
        "x + 1",
        "x + 2",
    ),
    "tensor": ("table = torch.tensor([1.0])\ndef thing(o): return o * table", "[1.0]", "[2.0]"),
    "array": ("table = np.array([1.0])\ndef thing(o): return o * table", "[1.0]", "[2.0]"),
    "option": (
        "args = argparse.Namespace(alpha=1, out='a')\ndef thing(o): return o * args.alpha",
        "alpha=1",
        "alpha=2",
    ),
    "option in a closure": (
        "def of(args): return lambda o: o * args.alpha\nthing = of(types.SimpleNamespace(alpha=1))",
        "alpha=1",
        "alpha=2",
    ),
    "class weights": ("thing = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))", "2.0", "3.0"),
    "reduction": ("thing = nn.CrossEntropyLoss(label_smoothing=0.1)", "0.1", "0.2"),
    "loss module's forward": (
        "class L(nn.Module):\n  def forward(self, o, y): return o + 1\nthing = L()",
        "o + 1",
        "o + 2",
    ),
    "a layer's forward": (
        "class B(nn.Module):\n  def forward(self, x): return x + 1\nthing = nn.Sequential(B())",
        "x + 1",
        "x + 2",
    ),
    "a class that the constructor calls": (
        "class B(nn.Module):\n  def forward(self, x): return x + 1\n"
        "class N(nn.Module):\n  def __init__(self):\n    super().__init__()\n    self.b = B()\nthing = N",
        "x + 1",
        "x + 2",
    ),
    "generated code": ("box = {}\nexec('def thing(o): return o + 1', box)\nthing = box['thing']", "o + 1", "o + 2"),
    "generated constant": (
        "box = {}\nexec('A = 1\\ndef thing(o): return o + A', box)\nthing = box['thing']",
        "A = 1",
        "A = 2",
    ),
    "parametrised": (
        "class P(nn.Module):\n  def forward(self, x): return x * 1\n"
        "thing = nn.Linear(1, 1)\nnn.init.ones_(thing.weight), nn.init.ones_(thing.bias)\n"
        "nn.utils.parametrize.register_parametrization(thing, 'weight', P())",
        "x * 1",
        "x * 2",
    ),
    "hook": ("thing = nn.ReLU()\nthing.register_forward_hook(lambda m, i, o: o + 1)", "o + 1", "o + 2"),
    "network within a hook": (
        "teacher = nn.PReLU(init=0.1)\nthing = nn.ReLU()\nthing.register_forward_hook(lambda m, i, o: teacher(o))",
        "0.1",
        "0.2",
    ),
    "replaced method": (
        "thing = nn.ReLU()\nthing.forward = types.MethodType(lambda self, x: x + 1, thing)",
        "x + 1",
        "x + 2",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_of_what_it_does_is_seen(name: str, make: Make) -> None:
    text, before, after = CHANGES[name]
    assert text.count(before) >= 1
    first, again, other = make(text), make(text), make(text.replace(before, after, 1))
    assert digest(first.thing) == digest(again.thing)
    assert digest(first.thing) != digest(other.thing)


SAME = {
    "comment": ("def thing(o):\n  return o + 1", "\n  ", "  # why\n  "),
    "docstring": ("def thing(o):\n  return o + 1", "\n  ", "\n  'About it.'\n  "),
    "layout": ("def thing(o):\n  return o + 1", "o + 1", "(o +\n     1)"),
    "place in the file": ("def thing(o):\n  return o + 1", "def thing", "\n\n\ndef thing"),
    "what it does not read": ("A = 1\ndef thing(o):\n  return o + 1", "A = 1", "A = 2"),
    "option that it does not read": (
        "args = argparse.Namespace(alpha=1, out='a')\ndef thing(o): return o * args.alpha",
        "'a'",
        "'b'",
    ),
    "order of a mapping": ("T = dict(a=1, b=2)\ndef thing(o): return T", "a=1, b=2", "b=2, a=1"),
    "order of a set": ("T = {'a', 'b', 'c'}\ndef thing(o): return T", "'a', 'b', 'c'", "'c', 'b', 'a'"),
    "documentation of a class": ("class M:\n  'One.'\n  a = 1\nthing = M()", "One.", "Two."),
}


@pytest.mark.parametrize("name", SAME)
def test_what_changes_nothing_is_the_same(name: str, make: Make) -> None:
    text, before, after = SAME[name]
    assert digest(make(text).thing) == digest(make(text.replace(before, after, 1)).thing)


USED = {
    "an optimiser that steps": (
        "class thing(torch.optim.Optimizer):\n  def step(self): return 1",
        lambda thing: thing([nn.Parameter(torch.ones(1))], {}),
    ),
    "an optimiser that inherits its step": (
        "class Base(torch.optim.Optimizer):\n  def step(self): return 1\nclass thing(Base): pass",
        lambda thing: thing([nn.Parameter(torch.ones(1))], {}),
    ),
    "an optimiser whose base is used later": (
        "class Base(torch.optim.Optimizer):\n  def step(self): return 1\nclass thing(Base): pass",
        lambda thing: [kind([nn.Parameter(torch.ones(1))], {}) for kind in (thing, thing.__base__)],
    ),
    "a loss that is copied": (
        "class Loss:\n  def __init__(self): self.a = 1\n  def __call__(self, o, y): return self.a\nthing = Loss()",
        copy.deepcopy,
    ),
}


@pytest.mark.parametrize("name", USED)
def test_what_torch_and_python_write_into_a_class_that_is_used_does_not_count(name: str, make: Make) -> None:
    text, use = USED[name]
    thing = make(text).thing
    before = digest(thing)
    use(thing)
    assert digest(thing) == before


def test_code_of_other_modules_of_the_users_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for number, scale in enumerate((1, 1, 2)):
        helper = f"helper_{next(_numbers)}"
        (tmp_path / f"{helper}.py").write_text(f"SCALE = {scale}\ndef scaled(o):\n    return o * SCALE\n")
        for how in (
            f"import {helper} as h\ndef thing(o): return h.scaled(o)",
            f"from {helper} import scaled\ndef thing(o): return scaled(o)",
            f"def thing(o):\n    import {helper} as h\n    return h.scaled(o)",
            f"def thing(o):\n    from {helper} import scaled\n    return scaled(o)",
        ):
            name = f"caller_{next(_numbers)}"
            (tmp_path / f"{name}.py").write_text(how.replace(helper, "helper"))
            (tmp_path / "helper.py").write_text((tmp_path / f"{helper}.py").read_text())
            sys.modules.pop("helper", None)
            importlib.invalidate_caches()
            found.append((number, how.replace(helper, ""), digest(importlib.import_module(name).thing)))
            sys.modules.pop("helper", None)
    by = {(number, how): value for number, how, value in found}
    for how in {how for _, how, _ in found}:
        assert by[0, how] == by[1, how] != by[2, how]


def test_a_file_edited_after_its_import_does_not_speak_for_the_code_that_runs(make: Make) -> None:
    first = make("def thing(o): return o + 1")
    file = Path(str(first.__file__))
    file.write_text(file.read_text().replace("o + 1", "o + 2"))
    os.utime(file, (1, 1))
    edited, other = digest(first.thing), digest(make("def thing(o): return o + 2").thing)
    assert edited != other


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def set_to(name: str, value: Any, layer: int) -> Callable[[nn.Sequential], None]:
    return lambda model: setattr(model[layer], name, value)


SETTINGS: dict[str, Callable[[nn.Sequential], Any]] = {
    "dropout": set_to("p", 0.1, 2),
    "momentum": set_to("momentum", 0.01, 1),
    "eps": set_to("eps", 1e-3, 1),
    "attribute": set_to("scale", 2.0, 0),
    "tensor attribute": set_to("scale", torch.ones(1), 0),
    "frozen": lambda model: model[0].weight.requires_grad_(False),
    "evaluating": lambda model: model[1].eval(),
    "buffer that is not saved": lambda model: model[0].register_buffer("b", torch.ones(1), persistent=False),
    "hook": lambda model: model[0].register_forward_hook(lambda module, given, out: out),
    "tied": lambda model: setattr(model, "4", model[0]),
    "weight": lambda model: nn.init.zeros_(model[0].weight),
    "statistics": lambda model: model[1].running_mean.add_(1),
    "orthogonal": lambda model: parametrizations.orthogonal(model[3]),
    "double": lambda model: model.double(),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_of_a_network_is_seen(name: str) -> None:
    model = network()
    assert isinstance(model, nn.Sequential)
    SETTINGS[name](model)
    assert digest(model) != digest(network())


def test_tensors_hashed_elsewhere_are_left_out_and_no_others() -> None:
    def of(model: nn.Module) -> str:
        return fingerprint(model, hashed_elsewhere=model.state_dict(keep_vars=True).values()).digest

    first, other = network(), network()
    nn.init.zeros_(other[0].weight)  # type: ignore[index]
    assert of(first) == of(other)
    teachers = [nn.Linear(1, 1) for _ in range(2)]
    for model, teacher in zip((first, other), teachers, strict=True):
        model.register_forward_hook(lambda module, given, out, teacher=teacher: teacher(out))
    assert of(first) != of(other)


def test_a_copy_is_the_same_and_use_changes_nothing() -> None:
    import copy

    model = network()
    before = digest(model)
    assert digest(copy.deepcopy(model)) == before
    model(torch.randn(5, 3)).sum()
    model.load_state_dict(network().state_dict())
    assert digest(model) == before


def test_plain_values() -> None:
    distinct = [None, True, 1, 1.0, "1", b"1", (1,), [1], {1}, frozenset({1}), {1: 1}, range(1), ..., slice(1), 1j]
    distinct += [
        np.float32(1),
        np.int64(1),
        np.ones(1),
        torch.ones(1),
        torch.ones(1, dtype=torch.int64),
        np.dtype("f4"),
    ]
    distinct += [OrderedDict(a=1, b=2), OrderedDict(b=2, a=1), [[1], [1]], float("nan"), 0.0, -0.0, "ab", ("a", "b")]
    distinct += [
        torch.eye(2).to_sparse(),
        torch.eye(2),
        torch.empty(1, device="meta"),
        torch.Generator(),
        torch.float32,
    ]
    one = [1]
    distinct.append([one, one])  # one list twice is not two equal lists
    assert len({digest(value) for value in distinct}) == len(distinct)


def test_what_cannot_be_looked_into_is_named_and_does_not_make_each_run_another() -> None:
    def holding(kept: object) -> Callable[[], object]:
        return lambda: kept

    first, again = (fingerprint(holding(iter_)) for iter_ in ((i for i in "ab"), (i for i in "ab")))
    assert first == again
    assert "generator" in first.unseen[0]
    assert "kept" in first.unseen[0]
    assert digest(holding(threading.Lock())) == digest(holding(threading.Lock()))


def test_values_in_circles_and_very_deep_ones_end() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    assert digest(ring) == digest(ring)
    among = {"x": {1, 2}}
    among["self"] = among  # type: ignore[assignment]
    assert digest(among)
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert fingerprint(deep) == fingerprint(deep)
    assert fingerprint(deep).unseen


SCRIPT = """
import argparse, enum, functools, sys
import torch
from torch import nn
from tombola.fingerprint import fingerprint
Colour = enum.Enum("Colour", "RED BLUE")
NAMES = {"a", "b", "c", Colour.RED, (1, "x"), 2.5}
TABLE = {Colour.RED: 1, Colour.BLUE: {"u", "v"}, "k": frozenset({"p", "q", "r"})}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.kinds = nn.Linear(2, 2), {"m", "n", "o"}
        self.layer.register_forward_hook(lambda m, i, o: o)
        nn.init.ones_(self.layer.weight), nn.init.zeros_(self.layer.bias)
    def forward(self, x):
        return self.layer(x) if x in {"s", "t", "u"} else NAMES
def metric(o, y, *, scale=functools.partial(max, 1)):
    return (o == y), TABLE, Net, NAMES, [lambda: {"w", "z"}]
print(fingerprint(metric).digest, fingerprint(Net()).digest, fingerprint(Net).unseen)
"""


def test_processes_agree_whatever_the_hash_seed_the_folder_and_the_way_of_starting(tmp_path: Path) -> None:
    found = set()
    for seed, *way in (("1", "script.py"), ("2", "-c", "import script")):
        folder = tmp_path / seed
        folder.mkdir()
        (folder / "script.py").write_text(SCRIPT)
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, *way], cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        found.add(done.stdout)
    assert len(found) == 1
    assert found.pop().strip().endswith("()")


def test_a_namespace_of_options_may_be_given_whole() -> None:
    args = argparse.Namespace(a=1)
    assert digest(functools.partial(print, args)) != digest(functools.partial(print, argparse.Namespace(a=2)))


def test_a_generated_wrapper_counts_by_what_it_wraps(make: Make) -> None:
    text = (
        "def generate(f, number):\n"
        "    box = {'f': f}\n"
        "    exec(f'def w_{number}(o): return f(o)', box)\n"
        "    return functools.wraps(f)(box[f'w_{number}'])\n"
        "def plain(o): return o + 1\n"
        "thing = generate(plain, id(plain))\n"
    )
    first, again, other = make(text), make(text), make(text.replace("o + 1", "o + 2"))
    assert digest(first.thing) == digest(again.thing) != digest(other.thing)


def test_a_module_of_the_users_that_is_called_like_one_of_pythons_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "this", raising=False)
    found = []
    for scale in (1, 200):
        (tmp_path / "this.py").write_text(f"def thing(o):\n    return o * {scale}\n")
        sys.modules.pop("this", None)
        importlib.invalidate_caches()
        found.append(digest(importlib.import_module("this").thing))
        sys.modules.pop("this", None)
    assert found[0] != found[1]
