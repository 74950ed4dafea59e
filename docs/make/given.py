"""Numbers in the pages that no result gives: settings, what others published, what a data set's size gives."""

from __future__ import annotations

from collections.abc import Iterator

from pages import Claim, Table

GIVEN = {
    "README.md": (
        "Python 3.11 or newer",
        "verifies the ticket at the default margin of 0.2 points",
        "one of the 359 test images is worth 0.28 points",
        "a higher accuracy at 13.5 % (there +0.3 points",
    ),
    "docs/verdict.md": (
        "their difference has a standard error of 0.48 points",
        "0.28 points of 359, 0.01 points of 10,000",
        "(1.645 times the root of its part of the variance)",
        "would be decided with probability 0.8",
        "accuracies of 80 to 99.5 %, a standard deviation over seeds of 0 to 0.5 points",
        "difficulties that correlate by 0.3 or 0.95",
        "a rate of 0.05 has a standard error of 0.005",
        "exactly 0.2 points above",
    ),
    "docs/mnist.md": (
        "Adam 1.2e-3, batch 60",
        "| accuracy at 13.5 % | +0.3 points over dense (at early stop) |",
        "| back at the dense accuracy | 3.6 % |",
        "| 2.51 times as fast |",
    ),
    "docs/supermasks.md": (
        "98.0 is not reached",
        'Zhou\'s "masking is training" (79.3 there)',
        "The test split has 359 images, so that one is 0.28 points",
        "500 iterations of 128 (1.4 epochs; the paper trains for 100)",
        "WRN-28 at width 1 (0.37 million weights; the post has width 8), 600 iterations of 128 on CIFAR-10 (1.7 "
        "epochs)",
        "Adam 0.01, cut on plateaus of the training accuracy",
    ),
    "docs/multi-prize.md": (
        "VGG-Small 1/32 at 5 % kept: 91.48; ResNet-18 1/32 at 20 %: 94.66, with trained norms 94.8; VGG-Small ×1.25 "
        "1/1 at 25 %: 89.11, with trained norms 91.9 (Diffenderfer & Kailkhura 2021)",
    ),
    "docs/benchmarks.md": (
        "torch 2.12.1, ONNX Runtime 1.31, OpenVINO 2026.4.",
        "The target is at most 1.10, dense.",
        "edge-popup at most 1.10 for the convolutional networks at batch 128 and 1.5 for LeNet at batch 60, "
        "multi-prize at most 1.25 for Conv-4",
        "one step with edge-popup (density 0.5,",
        "over mask entropy plus one sign bit per kept weight (limit 1.5). The targets are 3 at 90 % and 5.5 at 95 %.",
        "activations of ±1, equal to the bit",
        "The target is 20 times `torch.sort` at 2.4 million.",
        "all kept weights ± one number",
        "Whole files of ResNet-18 (11.2 million weights)",
        "Limits: 1.005 times the bound plus 4 KB",
        "5,000 made JPEGs of 500x375 pixels,",
        "batches of random resized crops, flipped, at 224x224.",
        "Xeon, with torch 2.14.1 and while other jobs ran",
    ),
    "docs/deconstructing.md": (
        "Adam 1.2e-3, batch 60",
        "3,000 iterations a network (3.3 epochs) instead of 55",
        "reaches 79.3 % on initial weights and 86.3 % on signed constants",
    ),
    "docs/early-bird.md": (
        "penalty (1e-4), threshold (0.1) and window (5)",
        "| 4.7 times less energy |",
        "Its 0.1 is meant for half of the channels",
    ),
    "docs/other-ways.md": (
        "its paper's Adam at 0.1",
        "LeNet-300-100 at 1.8 %, trainings of 50,000 iterations",
        "All learn by Adam at 0.1",
        "edge-popup by SGD at 0.4",
    ),
    "docs/tasks.md": ("torchvision's ResNet-18, of 11.7 million weights",),
    "docs/deploy.md": (
        "Where the weights of a row are ± one number",
        "fraction of weights *kept*: 0.1 is 90 % zeros",
        "It needs ONNX Runtime 1.16 or later",
    ),
}


def tables() -> Iterator[Table]:
    return iter(())


def claims() -> Iterator[Claim]:
    for page, phrases in GIVEN.items():
        for phrase in phrases:
            yield Claim(page, phrase, {})
