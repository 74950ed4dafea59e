"""The study of double descent: models of growing size, each fitted to the same examples, in every replicate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tombola.data.config import DataSpec
from tombola.data.splits import Splits
from tombola.fields import checked
from tombola.models.spec import ModelSpec
from tombola.plain import as_plain
from tombola.results.double_descent import DescentFit, DescentPoint, DescentResult, over_replicates
from tombola.rng.seeds import checked_seed
from tombola.search.describe import describe_data
from tombola.search.driver import Experiment, Workspace, run
from tombola.search.find import replicate_seed
from tombola.search.request import as_data, check_replicates
from tombola.study.double_descent.base import Kind, Points
from tombola.study.double_descent.examples import Examples, examples_of
from tombola.study.double_descent.kinds import kind_of
from tombola.study.double_descent.sentence import peak_in, phases_in_words, sentence
from tombola.study.intervals import intervals_in_words
from tombola.train.options import Options

__all__ = ["double_descent"]

NAME = "double-descent"


@checked
def double_descent(
    kind: Kind | str,
    data: Any,
    out: str | Path,
    *,
    seed: int = 0,
    replicates: int = 3,
    options: Options | None = None,
    jobs: int = 1,
) -> DescentResult:
    """Fit models of growing size and measure each on training and test examples, in a run directory under `out`.

    Every replicate draws its own features, weights or trees; the examples are the same. Points lie in
    `<run>/curve-<r>/point-<i>/`; finished ones are found again.

    Args:
        kind: what grows, with its options, e.g. `FourierFeatures(multiples=(0.5, 1, 2))`; or its name.
        data: a data set's name, a DataSpec, Splits, or (train, val, test); the validation split is left alone.
        jobs: processes that share the replicates out (data given by name).

    Returns:
        `curve` (points with `features`, `parameters` or `density` and train_loss, test_loss, train_error, test_error
        and norm, means over replicates), `peak`, `threshold`, a `sentence`, and the `run`.

    Raises:
        TombolaError: the kind cannot work on this data; raised before anything is fitted.

    >>> import tempfile
    >>> x = torch.randn(60, 4)
    >>> y = (x[:, 0] > 0).long()
    >>> data = ((x[:20], y[:20]), (x[20:30], y[20:30]), (x[30:], y[30:]))
    >>> tb.double_descent("relu", data, tempfile.mkdtemp(), replicates=1).threshold
    20.0
    """
    made = kind_of(kind)() if isinstance(kind, str) else kind
    check_replicates(replicates)
    asked = Asked(made, as_data(data), checked_seed(seed), replicates, options or Options())
    return run(_DoubleDescent(asked), Path(out), jobs)


@dataclass(frozen=True)
class Asked:
    """A curve as it was asked for."""

    kind: Kind
    data: Splits | DataSpec
    seed: int
    replicates: int
    options: Options

    @property
    def parts(self) -> tuple[nn.Module | ModelSpec | Splits | DataSpec, ...]:
        """What other processes need by name."""
        return (self.data, *self.kind.parts)


@dataclass(frozen=True)
class _DoubleDescent(Experiment[Asked, DescentResult]):
    result = DescentResult

    def label(self, splits: Splits) -> str:
        return f"{NAME}-{self.request.kind.name}-{splits.name}"

    def config(self, splits: Splits) -> dict[str, Any]:
        kind = self.request.kind
        return {
            "study": NAME,
            "kind": {"name": kind.name, "version": kind.version, **as_plain(kind)},
            "data": describe_data(self.request.data, splits),
            "seed": self.request.seed,
            "replicates": self.request.replicates,
        }

    def check(self, work: Workspace) -> None:
        kind = self.request.kind.filled(examples_of(work.splits))
        kind.check(work, self.request.options, self.request.seed)

    def compute(self, work: Workspace) -> DescentResult:
        found: list[DescentFit] = []
        for _, fits in work.map(self.curve, range(self.request.replicates), "replicates"):
            found += fits
        examples = examples_of(work.splits)
        return self._result(work.splits, examples, over_replicates(found))

    def curve(self, work: Workspace, replicate: int) -> list[DescentFit]:
        """One replicate's models."""
        examples = examples_of(work.splits)
        kind = self.request.kind.filled(examples)
        seed = replicate_seed(self.request.seed, replicate)
        fits: list[DescentFit] = []
        with work.progress.track("models", kind.count()) as update:
            for fit in kind.fits(examples, seed, Points(work, replicate, self.request.options)):
                fits.append(fit)
                update(len(fits))
        return fits

    def _result(self, splits: Splits, examples: Examples, curve: tuple[DescentPoint, ...]) -> DescentResult:
        kind, replicates = self.request.kind.filled(examples), self.request.replicates
        first = [point for point in curve if point.series == curve[0].series]
        threshold = kind.threshold(examples, first)
        peak = peak_in(first, kind.axis, kind.peak_of)
        phases = kind.phases(first)
        said = sentence(kind.name, curve, kind.axis, kind.peak_of, threshold)
        return DescentResult(
            curve_kind=kind.name,
            axis=kind.axis,
            model=kind.model,
            data=splits.name,
            loss=kind.loss,
            examples=examples.n,
            outputs=examples.outputs,
            replicates=replicates,
            seeds=tuple(replicate_seed(self.request.seed, index) for index in range(replicates)),
            settings=as_plain(kind),
            curve=curve,
            peak=peak,
            peak_of=kind.peak_of,
            threshold=threshold,
            phases=phases,
            sentence=" ".join(filter(None, (said, kind.remark(first), phases_in_words(curve[0].series, phases)))),
            intervals=intervals_in_words(replicates),
            note=kind.note,
        )
