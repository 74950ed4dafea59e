"""Prune a trained network in one shot: a criterion or a reconstruction, calibration data, one mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tombola.data.task import Loss
from tombola.errors import TombolaError
from tombola.fields import check_counts, checked
from tombola.machine.autocast import without_autocast
from tombola.mask import Mask
from tombola.parameters import check_plain, prunable, resolve, transposed, unwrap
from tombola.prune.calibration import Calibration, Data, read
from tombola.prune.channels import prune_channels
from tombola.prune.choose import choose
from tombola.prune.copies import copied
from tombola.prune.heads import Heads, choose_heads
from tombola.prune.how import How, how_of
from tombola.prune.layers import Layer, layers_of
from tombola.prune.measure import output_errors
from tombola.prune.norms import settle_norms
from tombola.prune.path import check_path
from tombola.prune.probe import Probe
from tombola.prune.pruned import Pruned, rows_of
from tombola.prune.reconstruct import reconstruct_
from tombola.rng.seeds import checked_seed, generator
from tombola.select.criteria import Criterion
from tombola.select.criteria import criterion as criterion_of
from tombola.select.patterns import Channel, Pattern


@checked
@without_autocast()
@torch.inference_mode(False)  # of tensors made within that mode there are no gradients
def prune(
    model: nn.Module,
    calibration: Data | None = None,
    *,
    density: float | Mapping[str, float] | None = None,
    criterion: str | Criterion = "magnitude",
    scope: str | None = None,
    pattern: str | Pattern = "element",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    samples: int | None = None,
    loss: Loss | None = None,
    norms: bool | None = None,
    errors: bool = True,
    seed: int = 0,
) -> Pruned:
    """Prune a trained network in one shot; no training, and no labels unless the criterion needs them.

    Args:
        model: copied, and left as it is.
        calibration: inputs like those of later use: batches (tensors, tuples that end in labels or not, mappings of
            arguments), one batch, or a data set (a name, DataSpec or Splits), of which training examples are drawn.
            Magnitude needs none, and then says nothing of errors.
        density: fraction of weights kept, in (0, 1]: of every layer, or name -> its own; layers that are not named
            stay whole. N:M fixes it.
        criterion: a criterion's name or import path, "magnitude" and "wanda" (|w| times the norm of what it multiplies;
            Sun et al. 2024) among them, or "sparse_gpt" (Frantar & Alistarh 2023), by which kept weights make up for
            pruned ones, layer by layer.
        scope: "row" (every output row holds the density, to one weight), "layer" or "global"; by default "row" for
            wanda with single weights, else "layer".
        pattern: "element", "block:V", "inputs:V" or "N:M", where rows are outputs in every kind of layer; "channel":
            channels with all that is coupled to them, as of `prune_channels`, or, at densities by layer, rows of each
            layer; "head": whole attention heads, of which the density is a fraction; other layers stay whole.
        include: as in `prunable`.
        exclude: as in `prunable`.
        samples: at most so many examples, by whole batches; by default 512 of a data set, else all.
        loss: of (output, labels) for criteria of gradients; by default the data set's, else cross-entropy.
        norms: estimate the running statistics of norms anew, from the calibration data, in the pruned network; None:
            if that makes its outputs more like those before, which takes four passes over these data.
        errors: measure the output errors, which takes the time of three passes over the calibration data.
        seed: of examples that are drawn, and of a criterion that draws.

    Raises:
        TombolaError: a density out of range, settings that do not go together, calibration data that the network
            refuses or that never reach a layer, labels that are missing; a weight that is computed from others; nothing
            is kept that leads from the input to the output.

    >>> network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> pruned = tb.prune(network, torch.randn(64, 8), density=0.5, criterion="wanda")
    >>> pruned.mask, pruned.ticket()
    (Mask(2 layers, 96 of 192 kept, density 0.5), Ticket(found by prune, 96 of 192 kept, density 0.5))
    """
    check_counts(samples=samples)
    how = how_of(criterion, density, scope, pattern)
    pruned, data = attempt(
        model, calibration, how, include, exclude, samples=samples, loss=loss, norms=norms, errors=errors, seed=seed
    )
    check_path(unwrap(model), pruned, data)
    return pruned


def attempt(
    model: nn.Module,
    calibration: Data | None,
    how: How,
    include: Sequence[str],
    exclude: Sequence[str],
    *,
    samples: int | None,
    loss: Loss | None = None,
    norms: bool | None = None,
    errors: bool,
    seed: int,
) -> tuple[Pruned, Calibration | None]:
    """What `prune` gives, and the data as read, without a word on layers that end empty."""
    own = unwrap(model)
    check_plain(own, exclude)
    network = copied(own)
    layers = layers_of(network, include, exclude)
    data = None if calibration is None else read(calibration, network, samples, loss, checked_seed(seed))
    mask = Mask(
        {**Mask.full({name: layer.weight for name, layer in layers.items()}), **_mask(network, layers, data, how, seed)}
    )
    mask.apply_(network)
    renewed = 0 if data is None else settle_norms(own, network, data, norms)
    local, error = _errors(own, network, layers, data) if errors else ({}, None)
    told = {
        **how.told(),
        "samples": 0 if data is None else sum(batch.size for batch in data.batches),
        "norms": renewed,
    }
    if turned := sorted(transposed(network) & mask.keys()):
        told["transposed"] = turned  # for a random control in the same pattern
    shape = None if data is None else data.input_shape
    pruned = Pruned(network.train(own.training), mask, rows_of(mask, local), error, renewed, told, shape)
    return pruned, data


def _mask(
    network: nn.Module, layers: Mapping[str, Layer], data: Calibration | None, how: How, seed: int
) -> Mapping[str, Tensor]:
    """What is kept of the layers that are pruned; by reconstruction the network's weights are changed."""
    chosen = _named(layers, how.density)
    if how.rebuilds:
        if data is None:
            raise TombolaError("sparse_gpt needs calibration data; give batches of inputs")
        return reconstruct_(network, chosen, data, how.density, how.pattern)
    scores = criterion_of(how.criterion)(Probe(network, chosen, data, seed).context())
    if isinstance(how.pattern, Channel) and not isinstance(how.density, Mapping | None):
        return _channels(network, layers, data, None if how.criterion == "magnitude" else scores, how)
    if isinstance(how.pattern, Heads):
        assert not isinstance(how.density, Mapping | None)
        return choose_heads(scores, network, chosen, float(how.density), how.scope)
    return choose(scores, chosen, how.density, how.scope, how.pattern, generator(seed, "fill"))


def _channels(
    network: nn.Module,
    layers: Mapping[str, Layer],
    data: Calibration | None,
    scores: Mapping[str, Tensor] | None,
    how: How,
) -> Mask:
    """Channels that are coupled, as one; of excluded layers all outputs stay."""
    if data is None:
        raise TombolaError("pattern channel needs calibration data, to see which channels are coupled; give a batch")
    assert how.density is not None
    first, left = data.batches[0], [name for name in prunable(network) if name not in layers]
    named, density, scope = dict(first.named) or None, how.density, how.scope
    return prune_channels(network, *first.args, named=named, density=density, scope=scope, scores=scores, exclude=left)


def _named(layers: Mapping[str, Layer], density: float | Mapping[str, float] | None) -> dict[str, Layer]:
    """The layers that a mapping of densities names; else all."""
    if not isinstance(density, Mapping):
        return dict(layers)
    for name in density:
        resolve(layers, name, "prunable layer")
    return {name: layer for name, layer in layers.items() if name in density}


def _errors(
    before: nn.Module, after: nn.Module, layers: Mapping[str, Layer], data: Calibration | None
) -> tuple[dict[str, float], float | None]:
    if data is None:
        return {}, None
    return output_errors(copied(before), after, layers, data)
