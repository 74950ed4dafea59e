"""A region compiled for this machine: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tombola.deploy.jit.emitter import LANES
from tombola.deploy.jit.program import Compiled, Program
from tombola.deploy.kernels.sparse.assemble import assemble
from tombola.deploy.kernels.sparse.choices import Choices, Split, supports
from tombola.deploy.kernels.sparse.driver import ChunkDriver
from tombola.deploy.kernels.sparse.geometry import vectors_of
from tombola.deploy.kernels.sparse.steps import CallWords, Maker
from tombola.deploy.kernels.sparse.template import Arena, Template
from tombola.deploy.ops import Region
from tombola.errors import TombolaError
from tombola.machine.locks import Lock
from tombola.machine.memory import given, made

Made = tuple[list[Template], list[Arena], CallWords, dict[str, tuple[int, ...]]]
"""Steps, arenas, words of a call, shapes of the outputs' images."""


class CompiledRegion(Compiled):
    """A region as compiled steps.

    Called with the region's inputs in order, float32 on the CPU, (N, C, H, W) or (N, F), any N, gives the outputs in
    order, contiguous and without gradient. Any thread may call; calls run one at a time. The same choices give the same
    bits at any number of threads.

    Raises:
        TombolaError: chunks of more images than the batch has.
    """

    def __init__(self, region: Region, batch: int, threads: int, split: Split, made: Callable[[], Made]) -> None:
        if split.images > max(1, -(-batch // LANES) * LANES):
            raise TombolaError(f"chunks of {split.images} images are for larger batches than {batch}; measure again")
        self.batch, self.threads = batch, threads
        self.inputs = {name: tuple(shape) for name, shape in region.inputs.items()}
        self.outputs = region.outputs  # not the region: it holds the dense weights
        self.templates, self.arenas, self.words, self.shapes = made()
        self._images = split.images
        self._driver: ChunkDriver | None = None
        if split.by == "chunks":
            self._driver = ChunkDriver(self.templates, self.arenas)
            self.program = Program([self._driver.step], threads)
        else:
            self.program = Program([self.arenas[0].step(template) for template in self.templates], threads)
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of weights: lists, values, biases."""
        return sum(template.nbytes for template in self.templates)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs.

        Raises:
            TombolaError: inputs of other shapes, dtypes or devices than the region's.
        """
        taken = self._checked(inputs)
        count = len(taken[0][0])
        outputs = {name: made((count, *self.shapes[name]), torch.float32) for name in self.outputs}
        if count:
            with self._lock.alone():
                self._fill(taken, outputs)
                self._run(-(-count // self._images))
        return tuple(outputs[name][0] for name in self.outputs)

    def _checked(self, inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, int]]:
        wanted = self.inputs
        if len(inputs) != len(wanted):
            raise TombolaError(f"the region takes {len(wanted)} inputs; {len(inputs)} were given")
        taken = [
            given(x, torch.float32, shape, f"input {name!r}")
            for x, (name, shape) in zip(inputs, wanted.items(), strict=True)
        ]
        if len({len(x) for x, _ in taken}) > 1:
            raise TombolaError(f"the inputs' batches differ: {', '.join(str(len(x)) for x, _ in taken)}")
        return taken

    def _fill(self, inputs: list[tuple[Tensor, int]], outputs: Mapping[str, tuple[Tensor, int]]) -> None:
        self.words.batch[0] = len(inputs[0][0])
        for (_, address), word in zip(inputs, self.words.enter.values(), strict=True):
            word[0] = address
        for name, (_, address) in outputs.items():
            self.words.leave[name][0] = address

    def _run(self, chunks: int) -> None:
        if self._driver is not None:
            self._driver.begin(chunks)
            self.program.run()
            return
        for chunk in range(chunks):
            self.arenas[0].chunk[0] = chunk
            self.program.run()


class NativeRegion(CompiledRegion):
    """A region in float32.

    Raises:
        TombolaError: an operation that `supports` names, choices that do not fit the region, fewer than 1 thread.
    """

    def __init__(self, region: Region, batch: int, threads: int, choices: Choices) -> None:
        for op in region.ops:
            reason = supports(op)
            if reason:
                raise TombolaError(f"{op.name} cannot be compiled: {reason}")
        choices.check(region)
        self.choices = choices
        super().__init__(region, batch, threads, choices.split, lambda: make(region, choices, threads))


def make(region: Region, choices: Choices, threads: int) -> Made:
    """The region compiled, in its parts."""
    if threads < 1:
        raise TombolaError(f"threads is {threads}; give 1 or more")
    split, by_chunks = choices.split, choices.split.by == "chunks"
    assembly = assemble(region, choices.layers, split.images)
    maker = Maker(region, assembly, choices.layers, images=split.images, shares=1 if by_chunks else threads)
    templates = [template for node in assembly.nodes for template in maker.of(node)]
    arenas = [Arena(assembly.sizes) for _ in range(threads if by_chunks else 1)]
    vectors = vectors_of(region)
    shapes = {name: assembly.shapes[name][: 1 if name in vectors else 3] for name in region.outputs}
    return templates, arenas, maker.words, shapes
