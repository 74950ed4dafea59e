"""A page for every method of `tombola find`: formula, source, command, options, recipe, and what is measured here.

All of it comes from the method's own file, the presets and the committed results.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

import methods as listed
from other_ways import FOUND
from results import networks
from tombola.cli.options import field_help
from tombola.methods import METHODS
from tombola.methods.base import Method, SupermaskMethod
from tombola.results.statistics import interval
from tombola.search.presets import PRESETS, preset
from tombola.train.recipe import Recipe


@dataclass(frozen=True)
class Measured:
    """A study that shows a method: its arms are drawn, those that begin with one of `arms` as the method's own."""

    study: str
    on: str
    page: str
    arms: tuple[str, ...]


_MNIST, _DIGITS = "LeNet-300-100, MNIST", "LeNet-300-100, scikit-learn's digits"
WAYS, MASKS = ("mnist-ways", _MNIST, "other-ways.md"), ("mnist-supermasks", _MNIST, "supermasks.md#results-mnist")
SMALL = ("digits-masks", _DIGITS, "supermasks.md#results-digits")
BINARY = ("mnist-binary", _MNIST, "multi-prize.md#results-mnist")
BIRDS = ("cifar10-early-bird", "VGG-16, CIFAR-10", "early-bird.md")
_SIGNS = "a-tickets-signs-on-another-initialisation-on-mnist"
SHOWN: Mapping[str, Measured | str] = {
    "imp": "mnist-accuracy.svg",
    "at-init": Measured(*WAYS, ("synflow", "snip", "random, erk")),
    "early-bird": Measured(*BIRDS, ("early-bird", "from scratch", "drawn at")),
    "edge-popup": Measured(*MASKS, ("edge-popup",)),
    "iterand": Measured(*SMALL, ("iterand",)),
    "multicoat": Measured(*SMALL, ("multicoat",)),
    "gem-miner": Measured(*SMALL, ("gem-miner",)),
    "concrete": Measured(*WAYS, ("concrete",)),
    "signed-supermask": Measured(*SMALL, ("signed",)),
    "continuous": Measured(
        "mnist-continuous", _MNIST, "other-ways.md#continuous-sparsification-on-mnist", ("continuous",)
    ),
    "sign-transfer": Measured("mnist-signs", _MNIST, f"other-ways.md#{_SIGNS}", ("mask and",)),
    "learned-mask": Measured(*MASKS, ("drawn mask",)),
    "joint": Measured(*MASKS, ("joint",)),
    "multi-prize": Measured(*BINARY, ("multi-prize",)),
    "binary-weights": Measured(*BINARY, ("binary",)),
    "anneal": Measured(*WAYS, ("anneal",)),
    "evolve": Measured(*WAYS, ("evolve",)),
    "random-search": Measured(*WAYS, ("random search",)),
    "dense": Measured(*MASKS, ("weights only",)),
}
"""Method -> where its figure comes from: a file of docs/figures, or a study of docs/results that is drawn here."""
BELOW = 0.1
"""Arms that are so far below a method's own are left out of its figure, so that differences can be seen."""


def pages(folder: Path) -> Iterator[tuple[str, str]]:
    """Every method's page: its place, and its text; figures go into `folder`."""
    for name, kind in METHODS.items():
        yield f"methods/{name}.md", "\n\n".join(parts(name, kind, folder)) + "\n"


def parts(name: str, kind: type[Method], folder: Path) -> Iterator[str]:
    """The paragraphs of one page."""
    module = sys.modules[kind.__module__]
    yield f"# {name}"
    yield f"*{summary(kind)}*"
    yield inspect.cleandoc(module.__doc__ or "")
    if further := described(kind):
        yield further
    if formula := definition(kind):
        yield f"In plain torch:\n\n```python\n{formula}```"
    rows = [row for row in listed.METHODS if row.name.partition(",")[0] == name]
    yield "## Sources and results"
    yield "\n".join(sources(rows))
    yield from shown(name, folder)
    yield "## Command"
    yield f"```sh\n{quick(name)}\n```"
    call = f'tb.find("{model_of(name)}", "digits", "{name}")'
    yield f"The same from Python: `{call}`; `tombola find {name} --help` explains every option."
    yield "## Options"
    yield options(kind)
    yield "## Default recipes"
    yield recipes(name, kind)


def summary(kind: type[Method]) -> str:
    return inspect.cleandoc(kind.__doc__ or "").splitlines()[0]


def described(kind: type[Method]) -> str:
    """What the class says below its first line, without its arguments."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("\n")[2]
    return re.split(r"(?m)^(?:Args|Raises|Attributes):$", text)[0].strip()


def definition(kind: type[Method]) -> str:
    """The source of what a layer computes, for methods that learn a mask."""
    if not issubclass(kind, SupermaskMethod):
        return ""
    return textwrap.dedent(inspect.getsource(kind.definition)) if "definition" in vars(kind) else ""


def sources(rows: Sequence[listed.Method]) -> Iterator[str]:
    for row in rows:
        _, _, variant = row.name.partition(", ")
        yield f"- **{variant.capitalize() or 'Source'}**{': source' if variant else ''}: {row.paper}"
        yield f"    - published: {row.published}"
        ours = re.sub(r"\]\((?!https?:)", "](../", row.ours())
        yield f"    - here: {ours}"
        yield f"    - with the authors' settings: `tombola {row.command}`"


def shown(name: str, folder: Path) -> Iterator[str]:
    """The method's figure."""
    found = SHOWN.get(name)
    if found is None:
        raise LookupError(f"site_methods.py: {name} is not SHOWN")
    if isinstance(found, str):
        yield f"![{name}: test accuracy against density](../figures/{found})"
    else:
        target = folder / "methods" / f"{name}.svg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(drawn(found))
        yield f"![{name}: test accuracies of its arms beside the others of the study]({name}.svg)"
        yield (
            f"*{found.on}: test accuracies of the study's arms, those of `{name}` in blue, means with 95 % intervals "
            f"over training seeds; arms more than {100 * BELOW:.0f} points below them are left out. "
            f"[The study](../{found.page}).*"
        )
        if name in FOUND:
            claim = FOUND[name]()
            text = claim.text.format(**claim.numbers)
            yield f"{text[0].upper()}{text[1:]} (LeNet-300-100, MNIST, 1,500 iterations a training)."


def drawn(shown: Measured) -> bytes:
    """The study's arms from best to worst, as SVG."""
    import io

    from matplotlib import rc_context
    from matplotlib.figure import Figure

    last = networks(shown.study).last_levels()
    arms = {name: last.where(arm=name).values("test_accuracy") for name in last.arms()}
    arms = dict(sorted(arms.items(), key=lambda item: fmean(item[1])))
    own = [name.startswith(shown.arms) for name in arms]
    if not any(own):
        raise LookupError(f"{shown.study} has no arm that begins with one of {shown.arms}: {', '.join(arms)}")
    least = min(fmean(arms[name]) for name, mine in zip(arms, own, strict=True) if mine) - BELOW
    arms = {name: values for name, values in arms.items() if fmean(values) >= least}
    own = [name.startswith(shown.arms) for name in arms]
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "tombola", "font.size": 9}):
        figure = Figure(figsize=(6.4, 0.7 + 0.23 * len(arms)), layout="constrained")
        axes = figure.add_subplot()
        for place, ((_, values), mine) in enumerate(zip(arms.items(), own, strict=True)):
            low, high = (interval(values) if len(values) > 2 else None) or (fmean(values),) * 2
            colour = "#1f5fa8" if mine else "#9a9a9a"
            axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=2)
            axes.plot(100 * fmean(values), place, "o", color=colour, markersize=5)
        axes.set_yticks(range(len(arms)), list(arms))
        for label, mine in zip(axes.get_yticklabels(), own, strict=True):
            label.set_fontweight("bold" if mine else "normal")
        axes.set_xlabel("test accuracy [%]")
        axes.grid(axis="x", color="#e4e4e4")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def model_of(name: str) -> str:
    """The network whose preset on the digits a method has."""
    return "conv-2" if name == "early-bird" else "lenet-300-100"


def quick(name: str) -> str:
    """The command that gives a ticket of this method in minutes, on data that needs no download."""
    if METHODS[name].starts_fresh:
        return (
            f"tombola find imp --data digits --model {model_of(name)} --out runs\n"
            f"tombola find {name} --data digits --model {model_of(name)} "
            "--start runs/imp-*/replicate-0/level-05/network.ticket"
        )
    return f"tombola find {name} --data digits --model {model_of(name)}"


def options(kind: type[Method]) -> str:
    """A table of a method's fields: their defaults and what their docstrings say."""
    helps = field_help(kind)
    own = vars(kind).get("__annotations__", {})
    shown = sorted((item for item in fields(kind) if item.init), key=lambda item: item.name not in own)
    rows = [(item.name, default(item), helps[item.name]) for item in shown]
    lines = [f"| `{name}` | {value} | {escaped(text)} |" for name, value, text in rows]
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *lines])


def default(item: Any) -> str:
    value = item.default if item.default is not MISSING else item.default_factory()
    return "" if value is None or value == () or value == {} else f"`{plain(value)}`"


def plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def recipes(name: str, kind: type[Method]) -> str:
    """The presets of a method, and what holds without one."""
    known = dict.fromkeys((model, data) for _, model, data in PRESETS)
    rows = []
    for model, data in known:
        made = preset(kind, model, data)
        said = {**made.recipe, **made.method}
        if said:
            rows.append(
                f"| `{model}`, `{data}` | {', '.join(f'{key} {plain(value)}' for key, value in said.items())} |"
            )
    start = "\n".join(["| model, data | settings |", "|---|---|", *rows]) if rows else "No preset."
    base = Recipe()
    rest = f"{base.optimizer}, lr {base.lr}, batch size {base.batch_size}, {base.length}"
    source = "Sources: [recipes and presets](../guide/recipes.md)."
    return f"{start}\n\nElsewhere the defaults of `Recipe` hold: {rest}. {source}"
