"""The kernels worth trying for a layer, and a default among them."""

from __future__ import annotations

from tombola.deploy.jit.emitter import LANES
from tombola.deploy.kernels import gemv
from tombola.deploy.kernels.sparse.choices import Choice, Choices, Flat, Lanes, Split, layers
from tombola.deploy.kernels.sparse.geometry import Shape, shapes_of
from tombola.deploy.ops import Conv, Linear, Region

Tile = tuple[int, int, int] | tuple[int]
_L1 = 24 * 1024  # bytes of input that one tile may read per panel and stay in the L1 cache
_WASTE = 1.9  # how many times longer lists may become when rows share them


def splits(region: Region, batch: int, threads: int) -> list[Split]:
    """Splits of `batch` images, the most promising first."""
    if batch < LANES:
        return [Split("rows", 1)] + ([Split("chunks", 1)] if batch > 1 else [])
    whole = -(-batch // LANES) * LANES
    if any(isinstance(op, Conv) for op in region.ops):
        options = [Split("chunks", n) for n in (8, 16) if n == 8 or batch >= n * threads]
        return options if batch >= LANES * threads else [*options, Split("rows", LANES)]
    options = [Split("rows", min(64, whole))]
    return options + [Split("chunks", n) for n in (32, 64) if batch >= n * threads]


def candidates(op: Conv | Linear, shape: Shape, split: Split) -> list[Choice]:
    """Kernels for an operation whose target has this shape (C, H, W), the guess first."""
    _, h, w = shape
    vectors = split.images // LANES
    inputs = op.weight.shape[1]
    kernels: list[Choice] = []
    tiles: list[Tile]
    for rows in _shared_rows(op):
        max_vectors = {1: 13, 2: 6, 4: 3}[rows]
        if split.images == 1:
            if isinstance(op, Linear):
                return list(gemv.forms(op.nonzeros))
            tiles = [(p,) for p in runs_of(h * (w + 1) - 1, max_vectors)]
        elif isinstance(op, Linear) or h == w == 1:
            whole = [v for v in range(1, min(max_vectors, vectors) + 1) if vectors % v == 0]
            tiles = [(1, 1, v) for v in whole[:-3:-1]]
        else:
            tiles = [*blocks_of(h, w, vectors, max_vectors), (runs_of(h * (w + 1) - 1, max_vectors)[0],)]
        kernels += [_listed(tile, rows, panels) for tile in tiles for panels in _panels(op, tile, inputs, w)]
    return kernels


def guess(region: Region, batch: int, threads: int) -> Choices:
    """Choices without measuring: the first candidates."""
    split, shapes = splits(region, batch, threads)[0], shapes_of(region)
    return Choices(split, {op.target: candidates(op, shapes[op.target], split)[0] for op in layers(region)})


def _listed(tile: Tile, rows: int, panels: int) -> Lanes | Flat:
    return Lanes(*tile, rows, panels) if len(tile) == 3 else Flat(*tile, rows, panels)


def _shared_rows(op: Conv | Linear) -> list[int]:
    groups = op.groups if isinstance(op, Conv) else 1
    cost = {rows: op.nonzeros.waste(rows, groups) for rows in (4, 2)}
    shared = [rows for rows in (4, 2) if cost[rows] <= _WASTE]
    return shared if shared and cost[shared[0]] < 1.2 else [1, *shared]


def runs_of(positions: int, max_vectors: int) -> list[int]:
    """Up to two lengths of runs of vectors that cover a flat map with little waste."""
    vectors = -(-positions // LANES)
    sizes = range(max(1, max_vectors // 2), max_vectors + 1) if vectors > max_vectors else [vectors]
    return sorted(sizes, key=lambda p: (-(-vectors // p) * p, -p))[:2]


def blocks_of(h: int, w: int, vectors: int, max_vectors: int) -> list[tuple[int, int, int]]:
    """Blocks of positions: 8 vectors or fewer, with little rim and no ragged edge where possible."""
    room = min(max_vectors, 8)
    shapes = [(y, x, v) for v in (1, 2, 4) if vectors % v == 0 for y in (1, 2, 3, 4) for x in (1, 2, 3, 4, 6, 8)]
    fit = [(y, x, v) for y, x, v in shapes if y <= h and x <= w and y * x * v <= room]

    def cost(block: tuple[int, int, int]) -> tuple[float, int, int]:
        y, x, v = block
        ragged = (-(-h // y) * y) * (-(-w // x) * x) / (h * w)
        return ragged * (1 + 2 / (y * x * v)), (y + 2) * (x + 2) * v, v

    return sorted(fit, key=cost)[: 3 if vectors == 1 else 4]


def _panels(op: Conv | Linear, tile: Tile, inputs: int, width: int) -> list[int]:
    """Numbers of panels: such that a tile's inputs stay in the L1 cache, and half and twice as many."""
    if isinstance(op, Linear):
        best = -(-inputs * tile[-1] * 4 * LANES // (256 * 1024))
        return sorted({min(n * best, inputs) for n in (1, 2, 4)})
    high, wide = op.weight.shape[2:]
    if len(tile) == 1:
        window = 4 * (LANES * tile[0] + (high - 1) * (width + 1) + wide - 1)
    else:
        y, x, v = tile
        window = 4 * LANES * v * ((y - 1) * op.stride[0] + high) * ((x - 1) * op.stride[1] + wide)
    best = max(1, round(inputs * window / _L1))
    counts = {n for n in (best, best // 2, 2 * best) if 1 <= n <= max(1, inputs // 8)}
    return sorted(counts or {1}, key=lambda n: abs(n - best))
