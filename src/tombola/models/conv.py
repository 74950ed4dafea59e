"""Conv-2, -4, -6 (Frankle & Carbin 2019) and Conv-8 (Ramanujan et al. 2020): small relatives of VGG."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from tombola.models.activation import Activation, binary_form, check_has_norms, dropout_layer, following
from tombola.models.shapes import Pooling, Shape, flag, image, scaled


def conv(
    *,
    input_shape: Shape,
    classes: int,
    depth: int,
    width: float = 1,
    bias: bool = True,
    activation: Activation = "relu",
    affine: bool = False,
    norms: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """`depth` 3x3 convolutions in pairs of 64, 128, 256, 512 channels, then fc 256, 256, classes.

    Each pair ends in a 2x2 max pool, left out where the map is 1x1 already.

    Args:
        input_shape: (channels, height, width) of one example.
        classes: width of the output.
        depth: 2, 4, 6 or 8.
        width: factor of every hidden width.
        bias: whether the layers have biases; where norms follow, the last one alone can have them.
        activation: relu; binary: also a batch norm after each layer but the last, and pools before norms.
        affine: whether the batch norms have a scale and a bias.
        norms: a batch norm after each layer but the last in the ReLU form too.
        dropout: probability of dropout before fc2 and fc3; 0 in the binary form.
    """
    name = f"conv-{depth}"
    channels, height, width_in = image(name, input_shape)
    flag(name, "bias", bias)
    binary = binary_form(name, activation)
    normed = flag(name, "norms", norms) or binary
    check_has_norms(name, normed, flag(name, "affine", affine))
    hidden_bias = bias and not normed
    pooling = Pooling(height, width_in)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(1, depth + 1):
        out = scaled(name, 32 << (i + 1) // 2, width)
        layers[f"conv{i}"] = nn.Conv2d(channels, out, 3, padding=1, bias=hidden_bias)
        norm = nn.BatchNorm2d(out, affine=affine) if normed else None
        layers.update(following(i, binary, norm=norm, pool=pooling.next() if i % 2 == 0 else {}))
        channels = out
    layers["flatten"] = nn.Flatten()
    size, hidden = channels * pooling.height * pooling.width, scaled(name, 256, width)
    for i, out in enumerate((hidden, hidden), start=1):
        layers[f"fc{i}"] = nn.Linear(size, out, bias=hidden_bias)
        layers.update(following(depth + i, binary, norm=nn.BatchNorm1d(out, affine=affine) if normed else None))
        layers.update(dropout_layer(name, depth + i, dropout, binary))
        size = out
    layers["fc3"] = nn.Linear(size, classes, bias=bias)
    return nn.Sequential(layers)
