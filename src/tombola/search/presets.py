"""The papers' settings, keyed by (method, model, data); torch-free.

Sources: Frankle & Carbin 2019, figure 2 and appendices (LeNet, Conv-2/4/6, "Resnet-18" = ResNet-20, VGG-19). They
trained on the whole CIFAR-10; batch size 60 is theirs for LeNet and Conv, 64 for VGG-19, 128 for ResNet.
Edge-popup and multi-prize: Ramanujan et al. 2020, the small-scale configurations (Conv-2/4/6/8, ResNet-18), which
Diffenderfer & Kailkhura 2021 took over (VGG-Small too). Learned masks: Zhou et al. 2019. IteRand, multicoated
supermasks, Gem-Miner and signed supermasks: their authors' configurations. Early-bird tickets: You et al. 2020, section
4.1 (VGG-16 and PreResNet-101 on CIFAR). Concrete Ticket Search: the configuration of tanayarora09/TLAB. Continuous
Sparsification: Savarese et al. 2020, as lolemacs/continuous-sparsification masks the convolutions. ResNet-50 on image
folders is ImageNet's: edge-popup by configs/largescale of allenai/hidden-networks, multi-prize by those of
chrundle/biprop, imp by facebookresearch/open_lth (imagenet_resnet), rewound as in Frankle et al. 2019, 1903.01611. For
networks that the papers leave out (LeNet under edge-popup, everything on digits) the learning rates come from our own
small sweeps on the validation split (docs/supermasks.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tombola.methods import METHODS
from tombola.methods.base import Method


@dataclass(frozen=True)
class Preset:
    """Fields that differ from the defaults of the method and of the recipe."""

    recipe: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)


def _adam(lr: float, iterations: int) -> dict[str, Any]:
    return {
        "optimizer": "adam",
        "lr": lr,
        "batch_size": 60,
        "length": f"{iterations}it",
        "eval_every": "100it",
    }


def _sgd(batch_size: int, **more: Any) -> dict[str, Any]:
    common = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "schedule": "step"}
    return {**common, "batch_size": batch_size, "eval_every": "500it", **more}


def _early_bird(length: str, *milestones: str) -> dict[str, Any]:
    return _sgd(256, length=length, milestones=milestones, eval_every="1ep")


def _concrete(rewind: str) -> Preset:
    recipe = _sgd(512, length="160ep", weight_decay=1e-3, milestones=("80ep", "120ep"), clip_norm=2.0, eval_every="1ep")
    return Preset(recipe, {"rewind": rewind})


def _popup(batch_size: int = 128, **more: object) -> dict[str, Any]:
    common = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "schedule": "cosine"}
    return {**common, "batch_size": batch_size, "length": "100ep", **more}


def _imagenet() -> dict[str, Any]:
    # subnetonly/resnet50-*.yaml of both repositories; batches of 256 images, decay 2^-15
    return _popup(256, lr=0.256, warmup="5ep", momentum=0.875, weight_decay=2.0**-15, label_smoothing=0.1)


def _drawn(lr: float, length: str) -> dict[str, Any]:
    return {"optimizer": "adam", "lr": lr, "batch_size": 60, "length": length, "eval_every": "1ep"}


def _signed() -> dict[str, Any]:
    # theirs is a decoupled decay of 5e-4 a step; SGD's comes to as much at lr 0.05 and momentum 0.9
    steps = tuple(f"{epoch}ep" for epoch in range(10, 100, 10))
    return _popup(lr=0.05, nesterov=True, weight_decay=1e-3, schedule="step", milestones=steps, gamma=0.96)


# only the 3x3 convolutions of the residual network and of VGG are pruned there, by one global threshold
_VGG_CONVS = {"scope": "global", "exclude": ("fc.*",)}
_RESNET_CONVS = {"scope": "global", "exclude": ("fc.*", "*downsample*")}

PRESETS: Mapping[tuple[str, str, str], Preset] = {
    ("imp", "lenet-300-100", "mnist"): Preset(_adam(1.2e-3, 50_000)),
    ("imp", "conv-2", "cifar10"): Preset(_adam(2e-4, 20_000), {"conv_rate": 0.1, "output_rate": 0.1}),
    ("imp", "conv-4", "cifar10"): Preset(_adam(3e-4, 25_000), {"conv_rate": 0.1, "output_rate": 0.1}),
    ("imp", "conv-6", "cifar10"): Preset(_adam(3e-4, 30_000), {"conv_rate": 0.15, "output_rate": 0.1}),
    ("imp", "resnet-20", "cifar10"): Preset(
        _sgd(128, length="30000it", lr=0.03, warmup="20000it", milestones=("20000it", "25000it")),
        _RESNET_CONVS,
    ),
    ("imp", "vgg-16", "cifar10"): Preset(
        _sgd(64, length="160ep", warmup="10000it", milestones=("80ep", "120ep")), _VGG_CONVS
    ),
    ("imp", "vgg-19", "cifar10"): Preset(
        _sgd(64, length="160ep", warmup="10000it", milestones=("80ep", "120ep")), _VGG_CONVS
    ),
    ("imp", "lenet-300-100", "digits"): Preset(
        {"optimizer": "adam", "lr": 1.2e-3, "batch_size": 60, "length": "40ep", "eval_every": "20it"}
    ),
    # all convolutions and the last layer by one threshold, back to epoch 6 of 90 (20 % of the weights match there)
    ("imp", "resnet-50", "folder"): Preset(
        _sgd(1024, length="90ep", lr=0.4, warmup="5ep", milestones=("30ep", "60ep", "80ep"), eval_every="1ep"),
        {"scope": "global", "rewind": "6ep"},
    ),
    **{
        ("early-bird", model, "cifar10"): Preset(_early_bird("160ep", "80ep", "120ep"))
        for model in ("vgg-16", "vgg-19", *(f"resnet-{n}" for n in (18, 20, 32, 44, 56)))
    },
    **{
        ("early-bird", model, "digits"): Preset({**_early_bird("20ep", "10ep", "15ep"), "batch_size": 128})
        for model in ("conv-2", "lenet-300-100", "mlp")
    },
    ("concrete", "lenet-300-100", "mnist"): Preset(_adam(1.2e-3, 50_000), {"rewind": "3ep"}),
    ("concrete", "lenet-300-100", "digits"): Preset(
        {"optimizer": "adam", "lr": 1.2e-3, "batch_size": 60, "length": "40ep", "eval_every": "20it"}, {"rewind": "4ep"}
    ),
    ("concrete", "resnet-20", "cifar10"): _concrete("9ep"),
    ("concrete", "vgg-16", "cifar10"): _concrete("15ep"),
    **{("edge-popup", f"conv-{n}", "cifar10"): Preset(_popup()) for n in (2, 4, 6, 8)},
    **{("joint", f"conv-{n}", "cifar10"): Preset(_popup()) for n in (2, 4, 6, 8)},
    ("edge-popup", "resnet-18", "cifar10"): Preset(_popup(256, weight_decay=5e-4)),
    ("edge-popup", "resnet-50", "folder"): Preset(_imagenet(), {"density": 0.3}),  # 68.6 % top-1, their README
    ("multi-prize", "resnet-50", "folder"): Preset(_imagenet(), {"scale_fan": True}),
    ("joint", "resnet-18", "cifar10"): Preset(_popup(256, weight_decay=5e-4)),
    **{(method, "vgg-small", "cifar10"): Preset(_popup()) for method in ("edge-popup", "joint")},
    ("edge-popup", "lenet-300-100", "mnist"): Preset(_popup(lr=0.4, length="20ep")),
    ("joint", "lenet-300-100", "mnist"): Preset(_popup(length="20ep")),
    ("edge-popup", "lenet-300-100", "digits"): Preset(_popup(60, length="40ep")),
    ("joint", "lenet-300-100", "digits"): Preset(_popup(60, length="40ep")),
    ("learned-mask", "lenet-300-100", "mnist"): Preset(
        {"optimizer": "sgd", "lr": 100.0, "momentum": 0.9, "batch_size": 250, "length": "2000ep", "eval_every": "10ep"}
    ),
    ("learned-mask", "lenet-300-100", "digits"): Preset(_drawn(0.1, "40ep")),
    ("iterand", "conv-6", "cifar10"): Preset(_popup(lr=0.3)),
    ("iterand", "resnet-18", "cifar10"): Preset(_popup(weight_decay=5e-4), {"density": 0.4}),
    ("multicoat", "resnet-18", "cifar10"): Preset(_popup()),
    ("gem-miner", "resnet-20", "cifar10"): Preset(_popup(length="150ep", weight_decay=0.0), {"density": 0.0144}),
    ("gem-miner", "lenet-300-100", "digits"): Preset(_popup(60, lr=1.0, length="40ep", weight_decay=0.0)),
    **{
        ("continuous", model, "cifar10"): Preset(
            _sgd(64, length="85ep", milestones=("56ep", "71ep")), {"rewind": "2ep", "exclude": convs["exclude"]}
        )
        for model, convs in (("resnet-20", _RESNET_CONVS), ("vgg-16", _VGG_CONVS))
    },
    ("continuous", "lenet-300-100", "digits"): Preset(_popup(60, length="20ep", eval_every="2ep")),
    ("continuous", "lenet-300-100", "mnist"): Preset(_popup(60, length="10ep")),
    ("signed-supermask", "lenet-300-100", "mnist"): Preset(_signed()),
    ("signed-supermask", "lenet-300-100", "digits"): Preset(
        _popup(60, lr=0.05, length="40ep", nesterov=True, weight_decay=1e-2)
    ),
    **{("signed-supermask", f"conv-{n}", "cifar10"): Preset(_signed()) for n in (2, 4, 6, 8)},
    ("imp", "mlp", "digits"): Preset(
        {"optimizer": "adam", "lr": 1.2e-3, "batch_size": 60, "length": "40ep", "eval_every": "20it"}
    ),
}
"""(method, model, data) -> what differs from the defaults there."""

_TRAINED_AS: Mapping[str, str] = {
    **dict.fromkeys(("at-init", "concrete", "dense", "binary-weights", "sign-transfer"), "imp"),
    **dict.fromkeys(("multi-prize", "iterand", "multicoat", "gem-miner", "signed-supermask"), "edge-popup"),
    **dict.fromkeys(("anneal", "evolve", "random-search"), "edge-popup"),  # of a second level
}
"""Methods without a recipe of their own for a network -> the method whose recipe they train by there."""


def preset(method: type[Method], model: str, data: str) -> Preset:
    """The settings of (method, model, data), or none: then the defaults of the dataclasses hold.

    A method of the user's own trains by the recipe of imp, or of edge-popup if it trains scores.
    """
    if (own := PRESETS.get((method.name, model, data))) is not None:
        return own
    lender = _TRAINED_AS.get(method.name, method.name)
    if method.name not in METHODS:
        lender = "edge-popup" if method.trains_scores_only else "imp"
    return Preset(PRESETS.get((lender, model, data), Preset()).recipe)
