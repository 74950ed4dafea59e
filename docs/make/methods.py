"""docs/methods.md: every method, its paper, its command, the published figure, and ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from pages import Claim, Table
from results import arm, networks, number, percent, points, spread

MNIST = "[LeNet-300-100, MNIST](mnist.md): "
MASKS = "[LeNet-300-100, MNIST](supermasks.md#results-mnist): "
DIGITS = "[LeNet-300-100, digits](supermasks.md#results-digits): "
BINARY = "[LeNet-300-100, MNIST](multi-prize.md#results-mnist): "
WAYS = "[LeNet-300-100, MNIST](other-ways.md): "
NOT_RUN = "not run"

_masks, _digits, _binary = (partial(arm, study) for study in ("mnist-supermasks", "digits-masks", "mnist-binary"))
_ways = partial(arm, "mnist-ways")


@dataclass(frozen=True)
class Method:
    """`name`: as in METHODS, or of its variant; `ours` is read from the results."""

    name: str
    paper: str
    command: str
    published: str
    ours: Callable[[], str]


def lenet(level: int) -> str:
    found = networks("mnist-lenet").where(arm="ticket", level=level).values("test_accuracy")
    dense = networks("mnist-lenet").where(arm="ticket", level=0).values("test_accuracy")
    kept = networks("mnist-lenet").where(arm="ticket", level=level).values("density")[0]
    return f"{points(found, dense)} points at {number(100 * kept, 1)} %"


METHODS = (
    Method(
        "imp",
        "Frankle & Carbin 2019, [1803.03635](https://arxiv.org/abs/1803.03635)",
        "find imp --model lenet-300-100 --data mnist --density 0.036 --rounds 15",
        "LeNet, MNIST: 0.3 points above dense at 13.5 %, as dense at 3.6 % [the paper]",
        lambda: f"{MNIST}{lenet(9)}, {lenet(15)}, at a fifth of the length",
    ),
    Method(
        "imp, rewound",
        "Frankle et al. 2020, [1912.05671](https://arxiv.org/abs/1912.05671)",
        "find imp --model resnet-20 --data cifar10 --levels 20 --rewind 500it",
        "figures only",
        lambda: NOT_RUN,
    ),
    Method(
        "imp, learning rate rewound",
        "Renda et al. 2020, [2003.02389](https://arxiv.org/abs/2003.02389)",
        "find imp --model resnet-20 --data cifar10 --levels 20 --rewind lr",
        "figures only",
        lambda: NOT_RUN,
    ),
    Method(
        "continuous",
        "Savarese et al. 2020, [1912.04427](https://arxiv.org/abs/1912.04427)",
        "find continuous --model resnet-20 --data cifar10",
        "ResNet, CIFAR-10: 91.5 to 92.0 %, dense 90 to 91 % [README of lolemacs/continuous-sparsification]",
        lambda: (
            f"{WAYS}{spread(arm('mnist-continuous', 'continuous'))} at "
            f"{percent(fmean(arm('mnist-continuous', 'continuous', 'density')))}, "
            f"imp {spread(arm('mnist-continuous', 'imp'))}, at 1,500 iterations"
        ),
    ),
    Method(
        "at-init",
        "Frankle et al. 2021, [2009.08576](https://arxiv.org/abs/2009.08576)",
        "find at-init --model resnet-20 --data cifar10 --criterion synflow --density 0.05",
        "shuffling snip, grasp and synflow within layers keeps or improves the accuracy [abstract]",
        lambda: f"{WAYS}{spread(_ways('synflow'))} at 5 %, shuffled {spread(_ways('synflow, shuffled'))}",
    ),
    Method(
        "sign-transfer",
        "Oh, Baik & Lee 2025, [2504.05357](https://arxiv.org/abs/2504.05357)",
        "find sign-transfer --model resnet-20 --data cifar10 --start found.ticket",
        "on CIFAR-100, Tiny-ImageNet and ImageNet only",
        lambda: (
            f"{WAYS}{spread(arm('mnist-signs', 'mask and signs'))} at "
            f"{percent(fmean(arm('mnist-signs', 'mask and signs', 'density')))}, the mask alone "
            f"{spread(arm('mnist-signs', 'mask alone'))}, at 1,500 iterations"
        ),
    ),
    Method(
        "concrete",
        "Arora & Teuscher 2025, [2512.07142](https://arxiv.org/abs/2512.07142)",
        "find concrete --model resnet-20 --data cifar10 --density 0.0074",
        "ResNet-20, CIFAR-10: 74.0 % at 0.7 %, rewound imp 68.3 % [abstract]; 86.6 % at 6.9 % (cross-entropy), "
        "rewound imp 90.4 % [results in tanayarora09/TLAB]",
        lambda: f"{WAYS}{spread(_ways('concrete'))} at 5 %, imp {spread(_ways('imp'))}",
    ),
    Method(
        "early-bird",
        "You et al. 2020, [1909.11957](https://arxiv.org/abs/1909.11957)",
        "find early-bird --model vgg-16 --data cifar10 --density 0.5",
        "VGG-16, CIFAR-100: 71.81, 72.17 and 71.28 % with 90, 70 and 50 % of the channels [table 2]",
        lambda: NOT_RUN,
    ),
    Method(
        "edge-popup",
        "Ramanujan et al. 2020, [1911.13299](https://arxiv.org/abs/1911.13299)",
        "find edge-popup --model conv-4 --data cifar10 --density 0.5",
        "ResNet-50, ImageNet: 68.6 % at 30 % [README of allenai/hidden-networks]; CIFAR-10 in figures only",
        lambda: (
            f"{MASKS}{spread(_masks('edge-popup 50'))} at 50 %, dense {spread(_masks('weights only'))}; "
            f"[Conv-4](supermasks.md#results-cifar-10) only at 500 iterations"
        ),
    ),
    Method(
        "iterand",
        "Chijiwa et al. 2021, [2106.09269](https://arxiv.org/abs/2106.09269)",
        "find iterand --model conv-6 --data cifar10",
        "CIFAR-10: Conv-6 88.80 %, ResNet-18 92.61 % [README and configuration of dchiji-ntt/iterand]",
        lambda: f"{DIGITS}{spread(_digits('iterand 50'))}, edge-popup {spread(_digits('edge-popup 50'))}",
    ),
    Method(
        "multicoat",
        "Okoshi et al. 2022, [PMLR 162](https://proceedings.mlr.press/v162/okoshi22a.html)",
        "find multicoat --model resnet-18 --data cifar10",
        "ResNet-101, ImageNet, 7 coats: 4 points above one coat [abstract]",
        lambda: f"{DIGITS}{spread(_digits('multicoat 50, 25'))}, edge-popup {spread(_digits('edge-popup 50'))}",
    ),
    Method(
        "gem-miner",
        "Sreenivasan et al. 2022, [2202.12002](https://arxiv.org/abs/2202.12002)",
        "find gem-miner --model resnet-20 --data cifar10 --finetune 150ep",
        "as accurate as imp or more, up to 19 times as fast [abstract]",
        lambda: f"{DIGITS}{spread(_digits('gem-miner 5'))} at 5 %, with trained weights",
    ),
    Method(
        "signed-supermask",
        "Koster et al. 2022, [2201.13361](https://arxiv.org/abs/2201.13361)",
        "find signed-supermask --model lenet-300-100 --data mnist",
        "LeNet, MNIST: 97.48 % at 3.77 % [README of kosnil/signed_supermasks]",
        lambda: f"{DIGITS}{spread(_digits('signed'))} at {kept('signed')}",
    ),
    Method(
        "learned-mask",
        "Zhou et al. 2019, [1905.01067](https://arxiv.org/abs/1905.01067)",
        "find learned-mask --model lenet-300-100 --data mnist",
        "LeNet, MNIST, 2,000 epochs: 95.3 %; signed constants and rescaling 98.0 % [the paper, table 1]",
        lambda: (
            f"{MASKS}{spread(_masks('drawn mask', 'test_accuracy_sampled'))}; "
            f"{spread(_masks('drawn mask, rescaled, signed constant', 'test_accuracy_sampled'))}, at 10 epochs"
        ),
    ),
    Method(
        "learned-mask, thresholded",
        "the post Super-Masks, [mshlis/SuperMasks](https://github.com/mshlis/SuperMasks)",
        "study mask-init --model wrn-28-8 --data cifar10",
        "no layer masks more than 16 %; accuracies in figures only",
        lambda: "[WRN-28-1](supermasks.md#are-supermasks-good-initialisations), 600 iterations only",
    ),
    Method(
        "joint",
        "the post Finding Lottery Tickets via Gradient Descent (LeapMind, 2021)",
        "study joint --model conv-4 --data cifar10",
        "no figure",
        lambda: f"{MASKS}{spread(_masks('joint 50'))} at 50 %, dense {spread(_masks('weights only'))}",
    ),
    Method(
        "joint, N:M",
        "SR-STE: Zhou et al. 2021, [2102.04010](https://arxiv.org/abs/2102.04010)",
        "find joint --model resnet-18 --data cifar10 --pattern 2:4 --weight_gradient sr-ste",
        "selects by weights, not by learned scores: not comparable",
        lambda: f"{DIGITS}{spread(_digits('joint 2:4'))}",
    ),
    Method(
        "anneal",
        "simulated annealing: Kirkpatrick et al. 1983, Science 220",
        "find anneal --model lenet-300-100 --data mnist",
        "of masks: no figure",
        lambda: f"{WAYS}{spread(_ways('anneal'))} at 5 %, edge-popup {spread(_ways('edge-popup'))}",
    ),
    Method(
        "evolve",
        "Altmann et al. 2024, [2411.04658](https://arxiv.org/abs/2411.04658); Schönberger et al. 2025, [2508.08877](https://arxiv.org/abs/2508.08877)",
        "find evolve --model lenet-300-100 --data mnist",
        "small binary tasks only",
        lambda: f"{WAYS}{spread(_ways('evolve'))} at 5 %, edge-popup {spread(_ways('edge-popup'))}",
    ),
    Method(
        "random-search",
        "a baseline",
        "find random-search --model lenet-300-100 --data mnist",
        "no figure",
        lambda: f"{WAYS}{spread(_ways('random search'))} at 5 %",
    ),
    Method(
        "multi-prize",
        "Diffenderfer & Kailkhura 2021, [2103.09377](https://arxiv.org/abs/2103.09377)",
        "find multi-prize --model vgg-small --data cifar10 --density 0.05",
        "CIFAR-10: VGG-Small 91.48 % at 5 %, ResNet-18 94.66 % at 20 % [README of chrundle/biprop]",
        lambda: f"{BINARY}{spread(_binary('multi-prize 20'))} at 20 %, float {spread(_binary('float'))}",
    ),
    Method(
        "binary-weights",
        "Courbariaux et al. 2015, [1511.00363](https://arxiv.org/abs/1511.00363), scaled as in Rastegari et al. "
        "2016, [1603.05279](https://arxiv.org/abs/1603.05279)",
        "find binary-weights --model vgg-small --data cifar10",
        "a baseline: other networks there",
        lambda: f"{BINARY}{spread(_binary('binary weights'))}, float {spread(_binary('float'))}",
    ),
    Method(
        "dense",
        "a baseline",
        "find dense --model conv-4 --data cifar10",
        "LeNet, MNIST: 97.7 %, Conv-4, CIFAR-10: 75.4 % [Zhou et al. 2019, table 1]",
        lambda: f"{MNIST}{spread(networks('mnist-lenet').where(arm='ticket', level=0).values('test_accuracy'))}",
    ),
)


def kept(name: str) -> str:
    found = _digits(name, "density")
    return f"{number(100 * sum(found) / len(found), 0)} %"


def titled(name: str) -> str:
    """The name on the command line as code, what follows as text."""
    command, comma, variant = name.partition(",")
    return f"`{command}`{comma}{variant}"


def tables() -> Iterator[Table]:
    yield Table(
        "methods",
        [
            ("method", "paper", "`tombola ...`", "published", "ours"),
            *((titled(m.name), m.paper, f"`{m.command}`", m.published, m.ours()) for m in METHODS),
        ],
    )


def claims() -> Iterator[Claim]:
    return iter(())
