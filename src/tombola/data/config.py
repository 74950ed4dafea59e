"""The description of data, without loading any. Torch-free: the fields are CLI options and YAML keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tombola.errors import TombolaError
from tombola.fields import check_fields
from tombola.names import unknown

MAX_PIXELS = 16384  # of an image's side
ASPECT = 4 / 3  # of random resized crops (Szegedy et al., arXiv:1409.4842)
CUES = ("none", "corner", "colour")
NOISES = ("symmetric", "pairflip")


def _within(owner: str, name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise TombolaError(f"{owner}.{name} is {value}; it must lie in {low:g} to {high:g}")


def check_share(name: str, value: float) -> None:
    """TombolaError unless the value lies in 0 to 1."""
    _within("data", name, value, 0, 1)


@dataclass(frozen=True)
class Augment:
    """Random changes made to training images; everything off by default.

    Args:
        flip: Mirror left-right with probability one half.
        crop: Pad by this many pixels on each side, then cut a random window of the old size.
        translate: Shift by at most this fraction of each side.
        rotate: Turn by at most this many degrees either way.
        zoom: Smallest fraction of the area that a random resized crop keeps (0: no resized crop).
        aspect: Largest ratio of the sides of that crop, either way.
    """

    flip: bool = False
    crop: int = 0
    translate: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    aspect: float = ASPECT

    def __post_init__(self) -> None:
        check_fields(self)
        _within("augment", "crop", self.crop, 0, 1024)
        _within("augment", "translate", self.translate, 0, 1)
        _within("augment", "rotate", self.rotate, 0, 180)
        _within("augment", "zoom", self.zoom, 0, 1)
        _within("augment", "aspect", self.aspect, 1, 100)
        if self.aspect != ASPECT and not self.zoom:
            raise TombolaError(f"augment.aspect is {self.aspect:g}, but there is no resized crop; set augment.zoom too")

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return self != Augment()

    @property
    def interpolates(self) -> bool:
        """Whether pixels get new values, and not only new places."""
        return bool(self.zoom or self.translate or self.rotate)


@dataclass(frozen=True)
class Cue:
    """A spurious cue: a square in the images that agrees with the label in training and validation, not in the test.

    A network that relies on it does well in validation and badly in the test, where every image carries the cue of
    a class drawn at random. It is planted once, in the stored pixels. Augmentation comes later and treats it as a
    part of the image: shifts and flips move it, crops cut it off; switch them off where the cue must stay intact.
    A white square does not show on a white background; a coloured one nearly always does.

    Args:
        kind: none, corner (a white square on the border, from the top left corner on: its position shows the class) or
            colour (a square in the top left corner of a colour image: its hue shows the class)
        size: side of the square in pixels (null: a tenth of the image's shorter side, at least 1)
        agreement: probability that a training or validation image carries the cue of its own class; otherwise it
            carries that of another class, drawn at random
    """

    kind: str = "none"
    size: int | None = None
    agreement: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.kind not in CUES:
            raise TombolaError(unknown("cue.kind", self.kind, CUES))
        if self.size is not None and self.size < 1:
            raise TombolaError(f"cue.size is {self.size}; it must be at least 1 pixel (or null for the default)")
        _within("cue", "agreement", self.agreement, 0, 1)
        if not self.active and (self.size, self.agreement) != (None, 1.0):
            raise TombolaError(f"cue.size and cue.agreement need a cue; set cue.kind to {' or '.join(CUES[1:])}")

    @property
    def active(self) -> bool:
        """Whether anything is planted at all."""
        return self.kind != "none"


@dataclass(frozen=True)
class DataSpec:
    """Which data, from where, and how it is split.

    Args:
        name: A data set's name, `folder` for images in class folders, or an import path of a data function.
        root: The folder that holds the data (or into which it is downloaded).
        val_size: Training examples held out for validation (null: 5000 of MNIST and CIFAR, else a tenth).
        augment: Random changes to training images (null: the data set's usual ones).
        cue: A spurious cue planted in the images (none by default).
        train_examples: Train on so many examples alone, every class keeping its share; the same ones in every run
            (null: all).
        label_noise: Share of the training labels that are wrong, the same ones in every run; validation and test stay
            clean.
        label_noise_kind: symmetric (wrong labels are drawn among the other classes) or pairflip (each is the next
            class).
        image_size: Side in pixels to which `folder` images are resized and cropped (null: left as they are).
        resize: Shorter side in pixels to which `folder` images are resized before the centre of `image_size` is cut out
            (null: image_size); ImageNet is usually evaluated at 256 and 224. Random resized crops of files that are
            streamed are cut from the whole image.
        args: Further keyword arguments of a data function; for `folder`, `channels` (1 or 3).
        in_memory_limit: GiB of examples held in memory; above it, bytes are kept or files streamed.
        workers: Processes that fetch streamed examples (null: one per core, at most 8); they change no result.
    """

    name: str = "digits"
    root: str = "data"
    val_size: int | None = None
    augment: Augment | None = None
    cue: Cue = field(default_factory=Cue)
    train_examples: int | None = None
    label_noise: float = 0.0
    label_noise_kind: str = "symmetric"
    image_size: int | None = None
    resize: int | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    in_memory_limit: float = 2.0
    workers: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.val_size is not None and self.val_size < 1:
            raise TombolaError(f"data.val_size is {self.val_size}; it must be at least 1 (or null for the default)")
        if self.train_examples is not None and self.train_examples < 1:
            raise TombolaError(f"data.train_examples is {self.train_examples}; it must be at least 1 (or null for all)")
        check_share("label_noise", self.label_noise)
        if self.label_noise_kind not in NOISES:
            raise TombolaError(unknown("label_noise_kind", self.label_noise_kind, NOISES))
        if self.label_noise == 0 and self.label_noise_kind != NOISES[0]:
            raise TombolaError(
                f"label_noise_kind is {self.label_noise_kind}, but no label is made wrong; give label_noise too, or "
                "leave it out"
            )
        if self.image_size is not None and not 1 <= self.image_size <= MAX_PIXELS:
            raise TombolaError(f"data.image_size is {self.image_size}; it must be 1 to {MAX_PIXELS} pixels")
        if self.resize is not None and not (self.image_size or MAX_PIXELS + 1) <= self.resize <= MAX_PIXELS:
            allowed = f"{self.image_size} (image_size) to {MAX_PIXELS}" if self.image_size else "given with image_size"
            raise TombolaError(f"data.resize is {self.resize}; it must be {allowed}")
        if self.workers is not None and not 0 <= self.workers <= 1024:
            raise TombolaError(f"data.workers is {self.workers}; it must be 0 to 1024")
        if self.in_memory_limit < 0:
            raise TombolaError(f"data.in_memory_limit is {self.in_memory_limit}; it must be 0 or more GiB")
