"""Networks that others wrote, with zeros and dead channels: the same outputs, also when four threads ask at once."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import MobileNetV2, VisionTransformer
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

import tombola as tb
from clocks import NATIVE, QUICK
from random_networks import fill
from tombola.bench.timing import Clock
from tombola.compact.compare import EQUAL, difference

# Torchvision's classes with a block or two of each kind.
VISION: dict[str, Callable[[], nn.Module]] = {
    "resnet-18": lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5),
    "resnet-50": lambda: ResNet(Bottleneck, [1, 2, 1, 1], num_classes=5, width_per_group=16),
    "mobilenet-v2": lambda: MobileNetV2(5, 0.25, [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]),
    "mobilenet-v3": lambda: MobileNetV3(
        [
            InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1.0),
            InvertedResidualConfig(16, 5, 64, 24, True, "HS", 2, 1, 1.0),
            InvertedResidualConfig(24, 5, 72, 24, True, "HS", 1, 2, 1.0),
        ],
        64,
        num_classes=5,
    ),
    "efficientnet-b0": lambda: EfficientNet(
        [
            MBConvConfig(1, 3, 1, 32, 16, 1, 1.0, 0.34),
            MBConvConfig(6, 3, 2, 16, 24, 2, 1.0, 0.34),
            MBConvConfig(6, 5, 2, 24, 40, 1, 1.0, 0.34),
        ],
        0.2,
        num_classes=5,
        last_channel=64,
    ),
    "convnext-tiny": lambda: ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 2)], num_classes=5),
    "vit-b": lambda: VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5),
}


def sparse(model: nn.Module) -> nn.Module:
    """Half of the weights 0, some channels and units dead."""
    fill(model, torch.Generator().manual_seed(0), density=0.2, dead=0.2)
    return model.eval()


def check(model: nn.Module, make: Callable[[int, torch.Generator], Tensor], clock: Clock = NATIVE) -> tb.Deployed:
    """Equal at two batch sizes, one thread as another."""
    g = torch.Generator().manual_seed(1)
    inputs = [make(2, g), make(3, g)]
    deployed = tb.deploy(model, inputs[0], threads=1, clock=clock)
    reference = copy.deepcopy(model).eval()
    for network in (deployed, deployed.compacted):
        with torch.no_grad():
            found = [network(x) for x in inputs]
            for x, have in zip(inputs, found, strict=True):
                assert difference(reference(x), have) <= EQUAL
        for seen in at_once(network, inputs):
            assert all(difference(one, found[i % 2]) == 0 for i, one in enumerate(seen))
    return deployed


def at_once(network: Callable[[Tensor], Any], inputs: Sequence[Tensor], threads: int = 4) -> list[list[Any]]:
    """What each of several threads gets for the inputs, in turn, again and again, while the others call as well."""
    together = threading.Barrier(threads)

    def calls(_: int) -> list[Any]:
        together.wait(60)
        with torch.no_grad():
            return [network(inputs[turn % len(inputs)]) for turn in range(6)]

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(calls, range(threads)))


def images(size: int, batch: int, g: torch.Generator) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=g)


@pytest.mark.slow
@pytest.mark.parametrize("name", VISION)
def test_networks_of_torchvision(name: str) -> None:
    clock = QUICK if name == "convnext-tiny" else NATIVE
    deployed = check(sparse(VISION[name]()), partial(images, 32), clock)
    assert deployed.report.compaction.reason is None
    assert any(layer.units[0] > layer.units[1] for layer in deployed.report.compaction.layers)
    assert clock is QUICK or {part.engine for part in deployed.plan.parts} == {"native"}


def words(batch: int, g: torch.Generator) -> Tensor:
    return torch.randint(0, 50, (batch, 7), generator=g)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any], Callable[[int, torch.Generator], Tensor]]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", {**SMALL, "vocab_size": 50}, words),
    "gpt-2": ("GPT2LMHeadModel", "GPT2Config", {**GPT2, "vocab_size": 50, "use_cache": False}, words),
    "gpt-2 with its cache": ("GPT2LMHeadModel", "GPT2Config", {**GPT2, "vocab_size": 50}, words),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**SMALL, "vocab_size": 50, "use_cache": False}, words),
    "vit": ("ViTForImageClassification", "ViTConfig", {**SMALL, "image_size": 8, "patch_size": 4}, partial(images, 8)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_networks_of_transformers(name: str) -> None:
    """Equal; where layers are torch's own, smaller too."""
    transformers = pytest.importorskip("transformers")
    kind, config, settings, make = TRANSFORMERS[name]
    model = sparse(getattr(transformers, kind)(getattr(transformers, config)(**settings)))
    deployed = check(model, make)
    layers = deployed.report.compaction.layers
    assert any(one.weights[0] > one.weights[1] for one in layers) or name.startswith("gpt-2")
