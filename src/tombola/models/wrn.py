"""Wide residual networks (Zagoruyko & Komodakis 2016): WRN-depth-K, pre-activation, depth 6n+4."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.models.activation import Activation, activation_layer, binary_form
from tombola.models.shapes import Shape, flag, image, scaled

_MAX_DEPTH = 1000


class PreActivationBlock(nn.Module):
    """x + conv2(relu(bn2(conv1(a)))) with a = relu(bn1(x)); where shapes change the shortcut is 1x1 on a.

    Maps are (batch, channels, height, width). In the binary form every convolution sees -1 and +1, and the sum
    stays as it is until the next norm.
    """

    def __init__(self, channels: int, out: int, stride: int, affine: bool, dropout: float, binary: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels, affine=affine)
        self.relu1 = activation_layer(binary)
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out, affine=affine)
        self.relu2 = activation_layer(binary)
        self.dropout: nn.Module = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Conv2d(channels, out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map a (batch, channels, height, width) tensor."""
        a = self.relu1(self.bn1(x))
        y = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(a)))))
        out: Tensor = y + (x if self.downsample is None else self.downsample(a))
        return out


def wrn(
    *,
    input_shape: Shape,
    classes: int,
    depth: int | str,
    width: float | str,
    affine: bool = True,
    dropout: float = 0.0,
    activation: Activation = "relu",
) -> nn.Sequential:
    """A 3x3 convolution, three stages of n blocks of 16K, 32K, 64K channels, norm, ReLU, average, fc.

    Args:
        input_shape: (channels, height, width) of one example.
        classes: width of the output.
        depth: 6n+4.
        width: K, also a fraction.
        affine: whether batch norms have a scale and a bias.
        dropout: probability of dropout between a block's convolutions; 0 in the binary form.
        activation: relu or binary. In the binary form the fc sees means of -1 and +1.

    Raises:
        TombolaError: for another depth, or arguments out of range.
    """
    name, depth, width = f"wrn-{depth}-{width}", int(depth), float(width)
    if not 10 <= depth <= _MAX_DEPTH or depth % 6 != 4:
        raise TombolaError(
            f"{name}: depth is {depth}; a depth of 6n+4 up to {_MAX_DEPTH} is needed: 10, 16, 22, 28, 34, 40, ..."
        )
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise TombolaError(f"{name}: dropout is {dropout!r}; a number in [0, 1) is needed")
    flag(name, "affine", affine)
    binary = binary_form(name, activation)
    if binary and dropout:
        raise TombolaError(f"{name}: dropout is {dropout}, which adds zeros to -1 and +1; activation binary needs 0")
    channels_in, _, _ = image(name, input_shape)
    channels = 16
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
    for s in range(1, 4):
        out = scaled(name, 8 << s, width)
        stage: OrderedDict[str, nn.Module] = OrderedDict()
        for b in range((depth - 4) // 6):
            stride = 2 if s > 1 and b == 0 else 1
            stage[f"block{b + 1}"] = PreActivationBlock(channels, out, stride, affine, float(dropout), binary)
            channels = out
        layers[f"stage{s}"] = nn.Sequential(stage)
    layers["bn"] = nn.BatchNorm2d(channels, affine=affine)
    layers["relu"] = activation_layer(binary)
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, classes)
    return nn.Sequential(layers)
