"""Packed binary layers: sums, borders, thresholds and whole chains agree with the modules to the bit."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from tombola.deploy.kernels.binary import lookup, pack_binary
from tombola.deploy.kernels.binary.chain import threshold
from tombola.deploy.kernels.binary.layer import ConvWindow, Maps, pack_weights
from tombola.deploy.kernels.binary.modules import PackedLayer, PackSigns
from tombola.deploy.ops import Linear
from tombola.errors import TombolaError
from tombola.graph.trace import traced
from tombola.models.registry import build_network
from tombola.nn import binary
from tombola.nn.binary import BinaryActivation, BinaryConv2d, BinaryLinear, use_binary_layers_
from tombola.parameters import prunable


def binary_(model: nn.Module, density: float = 0.5) -> nn.Module:
    """Weights of 0 and ± one magnitude per row (the first row empty), norms with odd scales, some of them negative."""
    with torch.no_grad():
        for weight in prunable(model).values():
            kept = torch.rand_like(weight) < density
            scale = 0.1 + torch.rand(len(weight), *[1] * (weight.dim() - 1))
            weight.copy_(scale * (2.0 * torch.randint(2, weight.shape) - 1) * kept)
            weight[0] = 0
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.normal_(0, 2)
                norm.running_var.uniform_(0.5, 5)
                if norm.affine:
                    norm.weight.normal_()
                    norm.bias.normal_()
    use_binary_layers_(model, prunable(model))
    return model.eval()


def signs(*shape: int) -> Tensor:
    return 2.0 * torch.randint(2, shape) - 1


def packed_of(model: nn.Module, example: Tensor, threads: int = 1) -> fx.GraphModule:
    """The network with every binary layer packed."""
    network = traced(copy.deepcopy(model).eval(), (example,), [True])
    layers = {n: "packed" for n, m in model.named_modules() if isinstance(m, BinaryLinear | BinaryConv2d)}
    with torch.inference_mode():
        pack_binary(network, threads, layers)
    return network


def equal(model: nn.Module, network: nn.Module, x: Tensor) -> bool:
    with torch.inference_mode():
        return torch.equal(model(x), network(x))


def count(network: nn.Module, kind: type, folded: bool | None = None) -> int:
    found = [m for m in network.modules() if isinstance(m, kind)]
    return len(found) if folded is None else sum((m.after is not None) == folded for m in found)  # type: ignore[union-attr]


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_bits_of_signs_by_hand() -> None:
    pack = PackSigns(Maps(3, 1, 2), 1)
    x = torch.tensor([[[[-0.0, -1.0]], [[0.5, -0.5]], [[-2.0, 0.0]]]])  # (1, 3, 1, 2)
    assert pack(x).tolist() == [[[[0b011], [0b100]]]]


@pytest.mark.parametrize("channels", [3, 8, 72])
@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_bits_do_not_depend_on_how_images_lie(channels: int, side: int) -> None:
    x = torch.randn(3, channels, side, side)
    pack = PackSigns(Maps(channels, side, side, (1, 0)), 1)
    want = pack(x)
    for lies in (x.to(memory_format=torch.channels_last), torch.cat([x, x], 3)[..., :side], x.mT.contiguous().mT):
        assert torch.equal(pack(lies), want)
    bits = (want[:, 1:-1, :, :, None] >> torch.arange(64)) & 1
    assert torch.equal(bits.flatten(3)[..., :channels].permute(0, 3, 1, 2) > 0, x >= 0)


def test_a_sum_by_hand() -> None:
    # rows: + - 0, and 0 0 -; x = (+1, +1, -1): 1 - 1 = 0 and +1, times 0.5 and 2, plus the bias
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -0.5, 0], [0, 0, -2.0]]))
        layer.bias.copy_(torch.tensor([0.25, -1.0]))
    model = nn.Sequential(BinaryActivation(), layer)
    use_binary_layers_(model, ["1.weight"])
    network = packed_of(model, torch.zeros(1, 3))
    assert network(torch.tensor([[3.0, 0.0, -1.0]])).tolist() == [[0.25, 1.0]]
    assert count(network, PackedLayer) == 1


def test_thresholds_by_hand() -> None:
    # sums -2, 0, 2 of two weights of 0.5; norm: 2·(x - 0.4) + 0, and its negative; a tie is +1
    layer, norm = nn.Linear(2, 4, bias=False), nn.BatchNorm1d(4, eps=0.0).eval()
    with torch.no_grad():
        layer.weight.fill_(0.5)
        assert norm.running_mean is not None
        norm.running_mean.copy_(torch.tensor([0.5, 0.5, 7.0, -7.0]))
        norm.weight.copy_(torch.tensor([2.0, -2.0, 1.0, 1.0]))
    use_binary_layers_(layer, ["weight"])
    found = threshold(Linear("l", "x", "y", layer.weight), Maps(4, 1, 1), norm=norm)
    assert found is not None
    never, always = 2**31 - 1, -(2**31)
    assert found.thresholds.tolist() == [1, 2, never, always, never, never, never, never]
    assert found.flips.tolist() == [0b10]


def test_a_bit_that_turns_twice_is_no_threshold() -> None:
    class Bump(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 - x.abs()

    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    use_binary_layers_(layer, ["weight"])
    assert threshold(Linear("l", "x", "y", layer.weight), Maps(1, 1, 1), norm=Bump()) is None


# ---- properties ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.sampled_from([1, 7, 64, 65, 130]),
    out=st.sampled_from([1, 4, 7, 9]),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 2)),
    dilation=st.integers(1, 2),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    bias=st.booleans(),
    threads=st.integers(1, 2),
)
def test_convolutions_agree_to_the_bit(
    batch: int, channels: int, out: int, size: tuple[int, int], kernel: tuple[int, int], stride: int,
    padding: tuple[int, int], dilation: int, density: float, bias: bool, threads: int,
) -> None:  # fmt: skip
    reach = [dilation * (k - 1) + 1 for k in kernel]
    assume(all(s + 2 * p >= r for s, p, r in zip(size, padding, reach, strict=True)))
    torch.manual_seed(batch)
    conv = nn.Conv2d(channels, out, kernel, stride, padding, dilation, bias=bias)
    model = binary_(nn.Sequential(BinaryActivation(), conv), density)
    x = torch.randn(batch, channels, *size)
    network = packed_of(model, x, threads)
    assert count(network, PackedLayer) == 1
    assert equal(model, network, x)
    assert equal(model, network, torch.randn(batch + 1, channels, *size))


@settings(max_examples=25, deadline=None)
@given(
    positions=st.integers(1, 200),
    words=st.integers(1, 9),
    out=st.integers(1, 20),
    density=st.sampled_from([0.0, 0.5, 1.0]),
    threads=st.integers(1, 2),
)
def test_counting_and_looking_up_agree(positions: int, words: int, out: int, density: float, threads: int) -> None:
    torch.manual_seed(positions)
    weight, x = signs(out, 64 * words) * (torch.rand(out, 64 * words) < density), signs(positions, 64 * words)
    results = []
    for fast in (lookup.looks_up(), False):
        maps = Maps(64 * words, 1, 1)
        packed = PackedLayer(
            pack_weights(weight[:, :, None, None], torch.ones(out), None), ConvWindow((1, 1)), maps,
            out=out, flat=True, after=None, threads=threads, look_up=fast,
        )  # fmt: skip
        results.append(packed(PackSigns(maps, threads)(x)))
    assert torch.equal(results[0], x @ weight.T)
    assert torch.equal(results[1], x @ weight.T)


@pytest.mark.parametrize("words", [3, 10])
def test_largest_sums_are_looked_up(words: int) -> None:
    size = 64 * words
    weights = pack_weights(-torch.ones(4, size, 1, 1), torch.ones(4), None)
    run = PackedLayer(weights, ConvWindow((1, 1)), Maps(size, 1, 1), out=4, flat=True, after=None, threads=1)
    assert torch.equal(run(PackSigns(Maps(size, 1, 1), 1)(torch.ones(33, size))), torch.full((33, 4), -float(size)))


def test_tables_by_hand() -> None:
    # mask 0b0111, sign 0b0101: of x = 0b1010 the three kept bits disagree, of 0b0101 none, of 0b0001 the third
    table = lookup.disagreements()[0b0111_0101]
    assert [int(table[x]) for x in (0b1010, 0b0101, 0b0001)] == [3, 0, 1]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.integers(1, 20), st.integers(0, 9), st.sampled_from([0.05, 0.5, 1.0]), st.booleans())
def test_linear_layers_agree_to_the_bit(inputs: int, out: int, batch: int, density: float, bias: bool) -> None:
    torch.manual_seed(inputs)
    model = binary_(nn.Sequential(BinaryActivation(), nn.Linear(inputs, out, bias=bias)), density)
    assert equal(model, packed_of(model, torch.zeros(1, inputs)), torch.randn(batch, inputs))


@settings(max_examples=25, deadline=None)
@given(
    pool=st.sampled_from([None, (2, 2), (3, 2), (2, 1)]),
    norm=st.sampled_from([None, True, False]),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_lies_between_is_folded_to_the_bit(
    pool: tuple[int, int] | None, norm: bool | None, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    between: list[nn.Module] = [] if pool is None else [nn.MaxPool2d(*pool)]
    between += [] if norm is None else [nn.BatchNorm2d(6, affine=norm)]
    model = binary_(
        nn.Sequential(
            BinaryActivation(), nn.Conv2d(5, 6, 3, padding=1, bias=bias), *between, BinaryActivation(),
            nn.Conv2d(6, 3, 3, padding=2, stride=2),
        )
    )  # fmt: skip
    x = torch.randn(4, 5, 9, 9)
    network = packed_of(model, x)
    assert count(network, PackedLayer, folded=True) == 1
    assert count(network, PackSigns) == 1
    assert equal(model, network, x)


@pytest.mark.parametrize("conv", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_ties_fall_as_in_the_norm(conv: bool, affine: bool) -> None:
    # the mean of each channel is one of its sums: rounding alone decides the sign there
    torch.manual_seed(1)
    layer, last = (nn.Conv2d(16, 256, 1), nn.Conv2d(256, 2, 1)) if conv else (nn.Linear(16, 256), nn.Linear(256, 2))
    norm = (nn.BatchNorm2d if conv else nn.BatchNorm1d)(256, affine=affine)
    model = binary_(nn.Sequential(BinaryActivation(), layer, norm, BinaryActivation(), last), 1.0)
    with torch.no_grad():
        scale = layer.weight.abs().flatten(1).amax(1)
        assert layer.bias is not None
        layer.bias.zero_()
        assert norm.running_mean is not None
        norm.running_mean.copy_(scale * 2 * torch.randint(-2, 3, (256,)))
        if affine:
            norm.bias.zero_()
    x = torch.randn(64, 16, 3, 3) if conv else torch.randn(256, 16)
    network = packed_of(model, x)
    assert count(network, PackedLayer, folded=True) == 1
    assert equal(model, network, x)


# ---- networks --------------------------------------------------------------------------------------------------------

NETWORKS = {
    "mlp": (1, 8, 8),
    "lenet-300-100": (1, 8, 8),
    "conv-2": (3, 8, 8),
    "conv-4": (3, 16, 16),
    "resnet-20": (3, 16, 16),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("affine", [True, False])
def test_networks_agree_to_the_bit(name: str, affine: bool) -> None:
    torch.manual_seed(0)
    args = {"activation": "binary", "affine": affine}
    model = binary_(build_network(name, input_shape=NETWORKS[name], classes=10, args=args))
    x = torch.randn(3, *NETWORKS[name])
    one, two = packed_of(model, x, threads=1), packed_of(model, x, threads=2)
    assert count(one, PackedLayer, folded=True) >= 1
    assert equal(model, one, x)
    with torch.inference_mode():
        assert torch.equal(one(x), two(x))


class Around(nn.Module):
    """Signs that something else reads too, an output behind them, a function instead of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.plain = (nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = binary.binary_sign(x)
        b = binary.binary_sign(self.one(a))
        return self.two(b) + b + self.plain(x), b


def test_signs_that_others_read_stay() -> None:
    model = Around()
    plain = copy.deepcopy(model.plain)
    binary_(model)
    model.plain = plain
    x = torch.randn(2, 4, 5, 5)
    network = packed_of(model, x)
    assert count(network, PackedLayer, folded=True) == 0
    assert count(network, PackedLayer) == 2
    with torch.inference_mode():
        assert all(map(torch.equal, model(x), network(x)))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same"),
    ],
)
def test_what_cannot_be_packed_stays(layer: nn.Conv2d) -> None:
    model = binary_(nn.Sequential(BinaryActivation(), layer))
    x = torch.randn(1, 4, 5, 5)
    network = packed_of(model, x)
    assert count(network, PackedLayer) == 0
    assert equal(model, network, x)


def test_the_faster_way_is_measured_and_told() -> None:
    model = binary_(nn.Sequential(BinaryActivation(), nn.Linear(64, 8)))
    network = traced(model, (torch.randn(2, 64),), [True])
    with torch.inference_mode():
        (told,) = pack_binary(network, 1)
    assert told.seconds.keys() == {"packed", "dense"}
    assert told.choice == min(told.seconds, key=told.seconds.__getitem__)
    assert count(network, PackedLayer) == (told.choice == "packed")


def test_bytes_copies_and_pickles() -> None:
    weight = signs(16, 64, 1, 1)
    packed = PackedLayer(
        pack_weights(weight, torch.ones(16), None),
        ConvWindow((1, 1)),
        Maps(64, 1, 1),
        out=16,
        flat=True,
        after=None,
        threads=1,
    )
    assert packed.nbytes == 16 * (8 + 8 + 4)  # a sign word, a mask word and a scale for each output
    assert copy.deepcopy(packed) is packed
    with pytest.raises(TombolaError, match="cannot be pickled"):
        pickle.dumps(packed)
