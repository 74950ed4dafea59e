"""Sparse matrix-vector products: the coding by hand, the results against torch, bits, bytes, bad choices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from activations import PERHAPS
from tombola.deploy.jit.program import Program
from tombola.deploy.kernels.gemv.forms import BOUND, Form, Gemv, build, forms, signed_bound
from tombola.deploy.kernels.gemv.gaps import PER_WORD, Coding, code, coded_bytes, columns
from tombola.deploy.kernels.gemv.planes import Planes, planes, planes_bytes
from tombola.deploy.nonzeros import Nonzeros
from tombola.deploy.ops import RELU, Activation
from tombola.errors import TombolaError

quick = settings(deadline=None, max_examples=60)
KINDS = st.sampled_from(["weights", "layer", "rows"])


def product(made: Gemv, x: Tensor, residual: Tensor | None = None, threads: int = 1) -> Tensor:
    """The vector that the step writes; what lies round it stays."""
    out = made.shape[0]
    room = torch.full((out + 2,), 7.5)
    target = room[1:-1]
    step = made.step(x, target, residual)
    Program([step], threads).run()
    assert room[0] == room[-1] == 7.5
    return target.clone()


def close(found: Tensor, wanted: Tensor, weight: Tensor, x: Tensor) -> None:
    """Within what float32 sums of these terms can differ by."""
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= 1e-6 * (1 + float((weight.abs() @ x.abs().to(weight.dtype)).max()))


def matrix(shape: tuple[int, int], density: float, kind: str, seed: int = 0, rows: int = 1) -> Tensor:
    """Random weights: normal, or ± one number for the layer, or for each row; `rows` rows share their columns."""
    torch.manual_seed(seed)
    mask = (torch.rand(-(-shape[0] // rows), shape[1]) < density).repeat_interleave(rows, 0)[: shape[0]]
    weight = torch.randn(shape)
    if kind != "weights":
        weight = weight.sign() * (0.3 if kind == "layer" else 0.1 + torch.rand(shape[0], 1))
    return weight * mask


def fitting(weight: Tensor) -> list[Form]:
    """Every form that fits the weight."""
    signs = Nonzeros(weight).constants is not None
    found: list[Form] = [Coding(per, rows, False) for per in (1, 2, 4) for rows in (1, 2, 4, 8)]
    found += [Coding(per, 1, True) for per in (1, 2, 3, 4, 5, 6, 8, 10, 16) if signs]
    return found + ([Planes()] if signs and weight.shape[1] >= 256 else [])


# ---- by hand ---------------------------------------------------------------------------------------------------------


def coded(rows: Sequence[Sequence[float]], coding: Coding) -> list[list[int]]:
    weight = np.array(rows, np.float32)
    gaps = code(weight, coding)
    assert gaps.words.nbytes == coded_bytes(columns(weight, coding.rows), coding)
    return gaps.words.view(np.uint32).tolist()


def test_gaps_and_weights_of_one_row() -> None:
    (word,) = coded([[0, 2, 0, 0, -3]], Coding(2, 1, False))
    assert word[0] == 1 + (3 << 16)
    assert word[1:8] == [0] * 7  # lanes without a row
    assert np.array(word[8:], np.uint32).view(np.float32).tolist() == [2, *[0] * 7, -3, *[0] * 7]


def test_signs_stand_above_the_gap() -> None:
    (word,) = coded([[0, 2, 0, 0, -2]], Coding(4, 1, True))
    assert word[0] == 1 + (2 + 128 << 8) + (127 << 16) + (127 << 24)
    assert word[1:8] == [127 * 0x01010101] * 7


def test_long_gaps_take_entries_without_a_column() -> None:
    row = [0.0] * 800
    row[255], row[799] = 1, 2
    (word,) = coded([row], Coding(4, 1, False))
    assert word[0] == 255 + (255 << 8) + (255 << 16) + (34 << 24)
    assert np.array(word[8::8], np.uint32).view(np.float32).tolist() == [1, 0, 0, 2]
    row = [0.0] * 300
    row[126], row[254] = 1, 1
    (word,) = coded([row], Coding(4, 1, True))
    assert word[0] == 126 + (127 << 8) + (0 << 16) + (127 << 24)


def test_rows_of_a_unit_share_a_list() -> None:
    (word,) = coded([[0, 5, 0], [0, -5, 0]], Coding(2, 2, True))
    assert word[0] == 1 + (2 << 14) + (0x3FFF << 16)
    (word,) = coded([[1, 0, 0], [0, 0, 2]], Coding(2, 2, False))
    assert word[0] == 0 + (2 << 16)
    values = np.array(word[8:], np.uint32).view(np.float32).reshape(2, 2, 8)
    assert values[:, :, 0].tolist() == [[1, 0], [0, 2]]


def test_longer_rows_come_first() -> None:
    weight = np.tril(np.ones((9, 9), np.float32))
    gaps = code(weight, Coding(4, 1, False))
    assert gaps.order.reshape(2, 8).tolist() == [[8, 7, 6, 5, 4, 3, 2, 1], [0, *[-1] * 7]]
    assert gaps.starts.tolist() == [0, 3, 4]


@pytest.mark.parametrize("coding", [Coding(4, 1, False), Coding(2, 4, False), Coding(5, 1, True)])
def test_coded_in_parts_or_whole(coding: Coding) -> None:
    weight = matrix((2500, 40), 0.3, "layer" if coding.signs else "weights").numpy()
    whole = code(weight, coding)
    parts = code(weight, coding, chunk=1)
    assert np.array_equal(whole.words, parts.words)
    assert np.array_equal(whole.starts, parts.starts)
    assert np.array_equal(whole.order, parts.order)
    assert sorted(whole.order[whole.order >= 0]) == list(range(2500))


def test_planes_by_hand() -> None:
    weight = np.zeros((1, 256), np.float32)
    weight[0, 0], weight[0, 9], weight[0, 255] = 1, -1, 1
    found = planes(weight)
    assert found.shape == (1, 1, 4, 2, 8)
    assert found.nbytes == planes_bytes(1, 256)
    assert found[0, 0, 0].tolist() == [[1 << 31, 1 << 30, 0, 0, 0, 0, 0, 1], [0, 1 << 30, 0, 0, 0, 0, 0, 0]]
    assert not found[0, 0, 1:].any()


def test_the_last_plane_block_lies_back() -> None:
    weight = np.zeros((1, 258), np.float32)
    weight[0, 2], weight[0, 257] = 1, 1
    found = planes(weight)[0, :, 0, 0]
    assert found[0].tolist() == [0, 0, 1 << 31, 0, 0, 0, 0, 0]
    assert found[1].tolist() == [0, 0, 0, 0, 0, 0, 0, 1]  # column 2 counts in the first block alone


@pytest.mark.parametrize("form", [Coding(4, 1, False), Coding(4, 2, False), Coding(1, 8, False)], ids=str)
def test_a_product_by_hand(form: Form) -> None:
    weight = torch.tensor([[1.0, 0, 2], [0, 0, 0], [0, -3, 0]])
    made = build(Nonzeros(weight), torch.tensor([0.5, -1, 0]), form, activation=RELU, residual=True)
    found = product(made, torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 0.25, 6.5]))
    assert found.tolist() == [8.5, 0, 0.5]


def test_constants() -> None:
    assert Nonzeros(torch.tensor([[2, 0, -2], [0, 2, 0]], dtype=torch.float32)).constants == [2]
    found = Nonzeros(torch.tensor([[2, -2], [3, 0], [0, 0]], dtype=torch.float32)).constants
    assert found is not None
    assert found.tolist() == [2, 3, 0]
    assert Nonzeros(torch.zeros(2, 2)).constants == [1]
    assert Nonzeros(torch.tensor([[2, 2], [2, 1]], dtype=torch.float32)).constants is None


# ---- against torch ---------------------------------------------------------------------------------------------------


@quick
@given(
    st.tuples(st.integers(1, 40), st.one_of(st.integers(1, 40), st.integers(250, 530))),
    st.sampled_from([0.0, 0.003, 0.05, 0.3, 0.7, 1.0]),
    KINDS,
    st.booleans(),
    st.booleans(),
    PERHAPS,
    st.data(),
)
def test_equals_torch_with_the_same_bits_for_any_threads(
    shape: tuple[int, int],
    density: float,
    kind: str,
    bias: bool,
    residual: bool,
    activation: Activation | None,
    data: st.DataObject,
) -> None:
    weight = matrix(shape, density, kind, seed=data.draw(st.integers(0, 99)))
    form = data.draw(st.sampled_from(fitting(weight)))
    x, b, r = torch.randn(shape[1]), torch.randn(shape[0]), torch.randn(shape[0])
    made = build(Nonzeros(weight), b if bias else None, form, activation=activation, residual=residual)
    wanted = weight.double() @ x.double() + bias * b.double() + residual * r.double()
    found = product(made, x, r if residual else None)
    close(found, wanted if activation is None else activation(wanted), weight, x)
    for threads in (2, 3):
        assert torch.equal(found, product(made, x, r if residual else None, threads))


@quick
@given(
    st.integers(1, 70),
    st.integers(1, 300),
    st.sampled_from([0.05, 0.5, 1.0]),
    KINDS,
    st.sampled_from([2, 4, 8]),
    st.integers(0, 99),
)
def test_blocks_of_rows(out: int, inputs: int, density: float, kind: str, rows: int, seed: int) -> None:
    weight = matrix((out, inputs), density, kind, seed, rows)
    x = torch.randn(inputs)
    per = 4 if kind == "weights" or rows < 8 else 2
    made = build(Nonzeros(weight), None, Coding(per, rows, kind != "weights"))
    close(product(made, x), weight.double() @ x.double(), weight, x)
    assert torch.equal(product(made, x), product(made, x, threads=2))


@pytest.mark.parametrize("kind", ["weights", "layer", "rows"])
def test_every_choice_of_uneven_matrices(kind: str) -> None:
    weight = matrix((600, 1500), 0.1, kind)
    weight[5] = 0
    weight[17, :1499] = 0
    weight[300:320] *= (torch.rand(20, 1500) < 0.002).float()
    full = matrix((4, 1500), 1, kind, 1)
    weight[100:104] = full.sign() * weight[99].abs().max() if kind == "layer" else full
    x = torch.randn(1500)
    for form in {*forms(Nonzeros(weight)), *fitting(weight)}:
        close(product(build(Nonzeros(weight), None, form), x, threads=2), weight.double() @ x.double(), weight, x)


def test_gaps_longer_than_any_field() -> None:
    weight = torch.zeros(3, 70_000)
    weight[0, 69_999], weight[1, 0], weight[1, 40_000], weight[2, 65_536] = 2, -2, 2, -2
    x = torch.randn(70_000)
    for form in fitting(weight):
        assert torch.equal(product(build(Nonzeros(weight), None, form), x), weight @ x)


def test_target_may_be_the_residual() -> None:
    weight, x, y = matrix((20, 30), 0.5, "weights"), torch.randn(30), torch.randn(20)
    wanted = weight.double() @ x.double() + y.double()
    made = build(Nonzeros(weight), None, forms(Nonzeros(weight))[0], residual=True)
    Program([made.step(x, y, y)], 2).run()
    close(y, wanted, weight, x)


def test_signs_do_not_read_inputs_that_are_not_kept() -> None:
    weight = torch.zeros(9, 300)
    weight[:, 1] = 1
    x = torch.full((300,), float("nan"))
    x[1] = 3
    for form in (Coding(5, 1, True), Coding(5, 4, True), Planes()):
        assert product(build(Nonzeros(weight), None, form), x).tolist() == [3] * 9


def test_other_dtypes_and_strides() -> None:
    weight = matrix((16, 24), 0.4, "weights").double().t()
    x = torch.randn(16)
    close(
        product(build(Nonzeros(weight), torch.ones(24).double(), forms(Nonzeros(weight))[0]), x),
        weight @ x.double() + 1,
        weight,
        x,
    )


# ---- choices and bytes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.01, 0.02, 0.05, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5])
@pytest.mark.parametrize("kind", ["layer", "rows"])
def test_signed_constants_stay_within_the_bound(density: float, kind: str) -> None:
    weight = matrix((512, 4096), density, kind)
    bound = signed_bound(weight.numel(), int(weight.count_nonzero()))
    for form in forms(Nonzeros(weight)):
        assert build(Nonzeros(weight), None, form).nbytes <= BOUND * bound


def test_bytes_count_everything() -> None:
    weight = matrix((16, 256), 0.5, "layer")
    assert build(Nonzeros(weight), torch.zeros(16), Planes()).nbytes == 16 * 256 * 2 / 8 + 4 + 16 * 4
    made = build(Nonzeros(weight), None, Coding(4, 1, False))
    words = made.args[3]
    assert isinstance(words, np.ndarray)
    assert made.nbytes == words.nbytes + 3 * 8 + 16 * 4  # first words of two groups and the end, the order of the rows


def test_bound_by_hand() -> None:
    assert signed_bound(800, 400) == (800 + 400) / 8
    assert signed_bound(800, 0) == 0
    assert signed_bound(800, 800) == 100


def test_forms() -> None:
    (only,) = forms(Nonzeros(matrix((512, 512), 0.1, "weights")))
    assert isinstance(only, Coding)
    assert (only.rows, only.signs) == (1, False)
    assert ":rows4:" in str(forms(Nonzeros(matrix((512, 512), 0.1, "weights", rows=4)))[0])
    assert forms(Nonzeros(matrix((512, 512), 0.5, "layer")))[0] == Planes()
    assert str(forms(Nonzeros(matrix((512, 512), 0.1, "layer")))[0]).endswith(":rows1:signs")
    assert Planes() not in forms(Nonzeros(matrix((512, 512), 0.2, "layer")))  # two bits are more than the bound
    assert forms(Nonzeros(torch.zeros(3, 5)))
    assert forms(Nonzeros(torch.ones(1, 1)))


@pytest.mark.parametrize("numbers", [(5, 1, False), (4, 3, False), (16, 2, True), (33, 1, True), (0, 1, False)])
def test_codings_that_there_are_not(numbers: tuple[int, int, bool]) -> None:
    with pytest.raises(TombolaError, match="no coding; known are gaps:perE:rowsV:weights, E 1, 2 or 4"):
        Coding(*numbers)


def test_every_coding_leaves_bits_for_a_gap() -> None:
    codings = [Coding(per, rows, True) for per in PER_WORD[True] for rows in (1, 2, 4, 8) if rows * per < 32]
    assert len(codings) == 26
    assert min(coding.gap_bits for coding in codings) == 1


def test_forms_that_do_not_fit() -> None:
    weight = matrix((8, 300), 0.5, "weights")
    with pytest.raises(TombolaError, match="is for signed constants"):
        build(Nonzeros(weight), None, Planes())
    with pytest.raises(TombolaError, match="is for signed constants"):
        build(Nonzeros(weight), None, Coding(4, 1, True))
    with pytest.raises(TombolaError, match="256 inputs or more, not 30"):
        build(Nonzeros(torch.ones(4, 30)), None, Planes())
    with pytest.raises(TombolaError, match="rows that share their columns"):
        build(Nonzeros(weight.sign()), None, Coding(4, 2, True))
    for shape in ((4,), (0, 4), (4, 0)):
        with pytest.raises(TombolaError, match="each at least 1"):
            build(Nonzeros(torch.ones(shape)), None, Planes())
