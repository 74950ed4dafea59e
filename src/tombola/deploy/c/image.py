"""What a context of the library holds when it is made, word by word, and the constant data that its words point to.

A context is one piece of memory: words, and after them arenas, those of the passes whose threads share the rows of a
layer first, then, thread by thread, those of passes that take chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tombola.deploy.c.passes import Pass, Passes, Where
from tombola.deploy.jit import runner
from tombola.deploy.jit.native import Code
from tombola.deploy.kernels.sparse.driver import driver
from tombola.deploy.kernels.sparse.template import PAGE, ArenaAddress, Arg, Chunk, Template

WORD = 8
LINE = 8
"""Words of a cache line."""
LOCK_WORDS = 32
"""Of a worker's mutex and condition, in halves: more than any system's take."""


class Kind(IntEnum):
    """What is added to the value of a word: nothing, an address, or the value is a function's number."""

    NUMBER = 0
    DATA = 1
    CONTEXT = 2
    ARENAS = 3
    FUNCTION = 4


Word = tuple[Kind, int]
ZERO: Word = (Kind.NUMBER, 0)


@dataclass(frozen=True)
class PassWords:
    """Bytes from the start of a context to the words of a pass. `steps`: how many the table has."""

    table: int
    steps: int
    batch: int
    chunk: int
    """Of the only arena; where threads take chunks, of what is handed out and how many there are."""
    enter: tuple[int, ...]
    leave: tuple[int, ...]
    images: int
    by_chunks: bool
    reads: tuple[Where, ...]
    writes: tuple[Where, ...]


@dataclass(frozen=True, eq=False)
class Image:
    """A context as it begins, and what it is made from. Offsets are in bytes from its start."""

    words: tuple[Word, ...]
    data: bytes
    codes: tuple[Code, ...]
    """Of the functions 1 .. ; function 0 is the one that shares a step's work."""
    passes: tuple[PassWords, ...]
    buffers: tuple[int, ...]
    mailboxes: int
    workers: int
    counter: int
    arenas: int
    once: int
    """Bytes of the arenas that are there once, buffers between passes included."""
    each: int
    """Bytes of the arenas of a thread."""


HEAD = ("memory", "threads", "busy", "started")
"""The first words: what is to be freed, threads, whether it runs, workers that were started."""


def image_of(network: Passes) -> Image:
    """The context of a network."""
    return _Builder(network).image()


class _Builder:
    """Words are appended as they are laid out; arrays and codes that occur again are kept once."""

    def __init__(self, network: Passes) -> None:
        self._network = network
        self._words: list[Word] = []
        self._chunks: list[bytes] = []
        self._size = 0
        self._arrays: dict[int, int] = {}
        self._codes: dict[int, int] = {}
        self._code: list[Code] = []

    def image(self) -> Image:
        network, threads = self._network, self._network.threads
        self._add([ZERO] * LINE)  # HEAD
        counter = self._add([ZERO] * LINE)
        mailboxes, workers = self._workers(threads)
        buffers, once = [], 0
        for size in network.buffers:
            buffers.append(once)
            once += _paged(4 * size * (network.piece or 0))
        starts, each = [], 0
        for one in network.passes:
            extent = one.native.arenas[0].extent
            shared = one.native.choices.split.by != "chunks"
            starts.append(once if shared else each)
            once, each = (once + extent.nbytes, each) if shared else (once, each + extent.nbytes)
        passes = [
            self._chunked(one, start, once, each) if _by_chunks(one) else self._shared(one, start)
            for one, start in zip(network.passes, starts, strict=True)
        ]
        arenas = _paged(WORD * len(self._words))
        data = b"".join(self._chunks)
        return Image(
            tuple(self._words), data, tuple(self._code), tuple(passes), tuple(buffers),
            mailboxes, workers, counter, arenas, once, each,
        )  # fmt: skip

    def _add(self, words: Iterable[Word], align: int = 1) -> int:
        """Bytes to where the words come to lie."""
        self._words += [ZERO] * (-len(self._words) % align)
        start = WORD * len(self._words)
        self._words += words
        return start

    def _workers(self, threads: int) -> tuple[int, int]:
        """Mailboxes with their locks, and the words for what the system calls the threads."""
        count = threads - 1
        locks = self._add([ZERO] * (LOCK_WORDS * count), align=LINE)
        boxes = [ZERO] * (LINE * count)
        for i in range(count):
            boxes[LINE * i + runner.LOCK] = (Kind.CONTEXT, locks + WORD * LOCK_WORDS * i)
        return self._add(boxes, align=LINE), self._add([ZERO] * max(count, 1))

    # ---- passes ------------------------------------------------------------------------------------------------------

    def _shared(self, one: Pass, arena: int) -> PassWords:
        """All threads share each step; each step is split for the number of threads that was chosen for."""
        call = self._call_words(one)
        chunk = self._add([ZERO])
        args = [self._args(step, one, call, chunk, arena) for step in one.native.templates]
        shares = [
            self._add([self._function(step.code), (Kind.CONTEXT, at), (Kind.NUMBER, self._network.threads)])
            for step, at in zip(one.native.templates, args, strict=True)
        ]
        table = self._add(word for at in shares for word in ((Kind.FUNCTION, 0), (Kind.CONTEXT, at)))
        return self._pass(one, call, table, len(shares), chunk)

    def _chunked(self, one: Pass, arena: int, once: int, each: int) -> PassWords:
        """Threads take chunks through all steps, each in an arena of its own."""
        threads, steps = self._network.threads, one.native.templates
        call = self._call_words(one)
        state = self._add([ZERO] * (2 * LINE), align=LINE)
        chunks = [self._add([ZERO] * LINE, align=LINE) for _ in range(threads)]
        rows: list[Word] = []
        for thread, chunk in enumerate(chunks):
            for step in steps:
                at = self._args(step, one, call, chunk, once + thread * each + arena)
                rows += [self._function(step.code), (Kind.CONTEXT, at)]
        tables = self._add(rows)
        words = self._add((Kind.CONTEXT, chunk) for chunk in chunks)
        args = self._add(
            [(Kind.CONTEXT, state), (Kind.CONTEXT, tables), (Kind.NUMBER, len(steps)), (Kind.CONTEXT, words)]
        )
        table = self._add([self._function(driver()), (Kind.CONTEXT, args)])
        return self._pass(one, call, table, 1, state)

    def _call_words(self, one: Pass) -> dict[int, int]:
        """Which word stands for each of the arrays of one word that a call fills in."""
        words = one.native.words
        return {id(array): self._add([ZERO]) for array in (words.batch, *words.enter.values(), *words.leave.values())}

    def _pass(self, one: Pass, call: dict[int, int], table: int, steps: int, chunk: int) -> PassWords:
        native, words = one.native, one.native.words
        return PassWords(
            table,
            steps,
            call[id(words.batch)],
            chunk,
            tuple(call[id(words.enter[name])] for name in native.inputs),
            tuple(call[id(words.leave[name])] for name in one.writes),
            native.choices.split.images,
            _by_chunks(one),
            one.reads,
            tuple(one.writes.values()),
        )

    def _args(self, step: Template, one: Pass, call: dict[int, int], chunk: int, arena: int) -> int:
        starts = one.native.arenas[0].extent.starts
        return self._add(self._word(arg, starts, call, chunk, arena) for arg in step.args)

    def _word(self, arg: Arg, starts: Sequence[int], call: dict[int, int], chunk: int, arena: int) -> Word:
        if isinstance(arg, ArenaAddress):
            return Kind.ARENAS, arena + starts[arg.buffer] + arg.offset
        if isinstance(arg, Chunk):
            return Kind.CONTEXT, chunk
        if not isinstance(arg, np.ndarray):
            return Kind.NUMBER, int(arg)
        if id(arg) in call:
            return Kind.CONTEXT, call[id(arg)]
        return Kind.DATA, self._array(arg)

    def _array(self, array: NDArray[Any]) -> int:
        """Bytes to where it lies in the data."""
        if id(array) not in self._arrays:
            content = array.tobytes()
            self._arrays[id(array)] = self._size
            self._chunks += [content, bytes(-len(content) % _ALIGN)]
            self._size += len(content) + -len(content) % _ALIGN
        return self._arrays[id(array)]

    def _function(self, code: Code) -> Word:
        if id(code) not in self._codes:
            self._code.append(code)
            self._codes[id(code)] = len(self._code)
        return Kind.FUNCTION, self._codes[id(code)]


_ALIGN = 64


def _by_chunks(one: Pass) -> bool:
    return one.native.choices.split.by == "chunks"


def _paged(size: int) -> int:
    return -(-size // PAGE) * PAGE
