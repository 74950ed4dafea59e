"""How much each layer of a trained network matters: accuracy or output error against its density, one at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tombola.fields import check_counts, checked
from tombola.machine.autocast import without_autocast
from tombola.names import check_known
from tombola.prune.calibration import Data, opened
from tombola.prune.how import by_layer
from tombola.prune.tried import Tried
from tombola.prune.validation import Validation, has_classes, validation_of
from tombola.results.sensitivity import ACCURACY, ERROR, MEASURES, LayerSensitivity, Sensitivity
from tombola.runs.progress import Progress, Silent
from tombola.select.checks import checked_densities
from tombola.select.criteria import Criterion
from tombola.select.patterns import NM, Pattern

DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05)


@checked
@without_autocast()
@torch.inference_mode(False)  # of tensors made within that mode there are no gradients
def sensitivity(
    model: nn.Module,
    calibration: Data,
    *,
    densities: Sequence[float] = DENSITIES,
    measure: str | None = None,
    criterion: str | Criterion = "magnitude",
    pattern: str | Pattern = "element",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    samples: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Sensitivity:
    """Prune one layer at a time to each density, the others whole, and say what the network loses.

    Args:
        model: copied, and left as it is.
        calibration: as of `tb.prune`. Accuracy is that on a data set's validation examples, or on the batches.
        densities: fractions of a layer's weights kept, in (0, 1].
        measure: "accuracy", which needs labels, or "output_error"; None: accuracy where there are labels of
            classes.
        criterion: as of `tb.prune`.
        pattern: as of `tb.prune`, but for "head"; N:M fixes its density.
        include: as of `tb.prune`.
        exclude: as of `tb.prune`.
        samples: as of `tb.prune`.
        seed: as of `tb.prune`.
        progress: shows how far it has come.

    Raises:
        TombolaError: as `tb.prune`; an unknown measure, no labels for accuracy.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> found = tb.sensitivity(network, torch.randn(16, 4), densities=[0.5, 0.25])
    >>> found.measure, [layer.name for layer in found.layers], len(found.layers[0].values)
    ('output_error', ['0.weight', '2.weight'], 2)
    """
    if measure is not None:
        check_known("measure", measure, MEASURES)
    check_counts(samples=samples)
    form = by_layer(pattern)
    wanted = (form.n / form.m,) if isinstance(form, NM) else tuple(sorted(checked_densities(densities), reverse=True))
    given = opened(calibration)
    tried = Tried(
        model,
        given,
        criterion=criterion,
        pattern=form,
        include=include,
        exclude=exclude,
        samples=samples,
        seed=seed,
    )
    chosen = measure or (ACCURACY if has_classes(tried.data) else ERROR)
    check = validation_of(given, tried.network, tried.data) if chosen == ACCURACY else None
    name = criterion if isinstance(criterion, str) else getattr(criterion, "__name__", "custom")
    return measured(tried, wanted, check, name, str(form), progress or Silent())


def measured(
    tried: Tried, densities: tuple[float, ...], check: Validation | None, criterion: str, pattern: str, bar: Progress
) -> Sensitivity:
    """The sensitivity of a network that is whole; accuracy by `check`, else output errors."""

    def value() -> float:
        return tried.error() if check is None else check.of(tried.network)

    dense = value()
    layers: list[LayerSensitivity] = []
    with bar.track("pruning one layer at a time", len(tried.layers)) as update:
        for name, size in tried.sizes.items():
            values = []
            for density in densities:
                tried.set_({name: density})
                values.append(value())
            layers.append(LayerSensitivity(name, size, tuple(values)))
            update(len(layers))
    tried.set_({})
    return Sensitivity(ERROR if check is None else ACCURACY, dense, densities, tuple(layers), criterion, pattern)
