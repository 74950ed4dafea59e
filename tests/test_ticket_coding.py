"""Coding of masks and signs: an independent reader agrees, sizes stay at the entropy or below, rounding is stated."""

from __future__ import annotations

import contextlib
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tombola.errors import TicketError
from tombola.mask import Mask
from tombola.ticket import bitcode, floats, masks
from tombola.ticket import format as container
from tombola.ticket.bitcode import BitReader, BitWriter, frequencies, probability
from tombola.ticket.origin import Origin
from tombola.ticket.representation import Representation
from tombola.ticket.storage import bound_bytes, entropy
from tombola.ticket.tensors import same_bits
from tombola.ticket.ticket import Ticket

SEEDED = Origin(init="kaiming_normal", seed=1, weights_hash="0" * 64)  # of a network that these tests never build


class PlainReader:
    """The range decoder as docs/ticket-format.md tells it, in Python's integers."""

    def __init__(self, data: bytes) -> None:
        self.words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
        self.at, self.low, self.range = 2, 0, 2**64 - 1
        self.point = self.word(0) << 32 | self.word(1)

    def word(self, at: int) -> int:
        return self.words[at] if at < len(self.words) else 0

    def byte(self, q: int) -> int:
        scale = self.range >> 24
        target = (self.point - self.low) % 2**64 // scale
        counts = frequencies(q).tolist()
        byte = start = 0
        while start + counts[byte] <= target:
            start += counts[byte]
            byte += 1
        self.low = (self.low + scale * start) % 2**64
        self.range = scale * counts[byte]
        if self.range < 2**32:
            self.low, self.range = (self.low << 32) % 2**64, self.range << 32
            self.point = (self.point << 32) % 2**64 | self.word(self.at)
            self.at += 1
        return byte

    def number(self, width: int) -> int:
        value = 0
        for _ in range(width // 8):
            value = value << 8 | self.byte(32768)
        return value

    def bits(self, count: int) -> list[int]:
        if not count:
            return []
        q = self.number(16)
        if q in (0, 65535):
            return [int(q > 0)] * count
        found = "".join(f"{self.byte(q):08b}" for _ in range((count + 7) // 8))
        return [int(bit) for bit in found[:count]]

    def symbols(self, count: int) -> list[int]:
        if not count:
            return []
        alphabet = [self.number(8) - 128 for _ in range(self.number(8) + 1)]
        values: list[int | None] = [None] * count
        for value in alphabet[:-1]:
            places = [i for i, found in enumerate(values) if found is None]
            for place, hit in zip(places, self.bits(len(places)), strict=True):
                if hit:
                    values[place] = value
        return [alphabet[-1] if value is None else value for value in values]


def test_frequencies_by_hand() -> None:
    assert frequencies(32768).tolist() == [65536] * 256
    quarter = frequencies(16384)
    assert quarter.sum() == 2**24
    assert quarter[0b1000] == quarter[0b10] == 1 + (2**24 - 256) * 3**7 // 4**8
    assert quarter[255] == 1 + (2**24 - 256) // 4**8
    assert quarter[1:].max() < quarter[0]
    assert frequencies(49152)[::-1].tolist() == quarter.tolist()  # zeros for ones


@given(st.integers(1, 65534))
@settings(max_examples=200, deadline=None)
def test_every_byte_can_be_coded(q: int) -> None:
    counts = frequencies(q)
    assert counts.min() >= 1
    assert counts.sum() == 2**24


@pytest.mark.parametrize(
    ("ones", "count", "q"),
    [(0, 9, 0), (9, 9, 65535), (1, 2, 32768), (1, 4, 16384), (3, 4, 49152), (1, 3, 21888), (1, 10**9, 2),
     (10**9 - 1, 10**9, 65534), (1, 1, 65535)],
)  # fmt: skip
def test_probability_by_hand(ones: int, count: int, q: int) -> None:
    assert probability(ones, count) == q


def test_nothing_takes_nothing_and_all_takes_two_bytes() -> None:
    writer = BitWriter()
    writer.bits(np.zeros(0, np.bool_))
    writer.symbols(np.zeros(0, np.int8))
    assert writer.data() == b""
    writer.bits(np.ones(10**6, np.bool_))
    assert len(writer.data()) == 4
    assert BitReader(writer.data()).bits(10**6).all()


GOLDEN_STREAM = "04df403395a792ef6a3cc61270e862ac"


def test_a_stream_is_the_same_for_ever() -> None:
    writer = BitWriter()
    writer.bits(np.arange(40) % 5 == 0)
    writer.symbols(np.array([1, -1, -1, 0, 1, 1], np.int8))
    assert writer.data().hex() == GOLDEN_STREAM
    reader = PlainReader(writer.data())
    assert reader.bits(40) == [int(i % 5 == 0) for i in range(40)]
    assert reader.symbols(6) == [1, -1, -1, 0, 1, 1]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_an_independent_reader_agrees(data: st.DataObject) -> None:
    runs: list[tuple[str, Any]] = []
    writer = BitWriter()
    for _ in range(data.draw(st.integers(1, 4))):
        generator = np.random.default_rng(data.draw(st.integers(0, 99)))
        size = data.draw(st.integers(0, 200))
        if data.draw(st.booleans()):
            bits = generator.random(size) < data.draw(st.sampled_from([0, 0.01, 0.2, 0.5, 0.97, 1]))
            writer.bits(bits)
            runs.append(("bits", bits))
        else:
            alphabet = generator.choice(np.arange(-128, 128), data.draw(st.integers(1, 16)), replace=False)
            values = generator.choice(alphabet, size).astype(np.int8)
            writer.symbols(values)
            runs.append(("symbols", values))
    ours, plain = BitReader(writer.data()), PlainReader(writer.data())
    for kind, run in runs:
        assert getattr(ours, kind)(run.size).tolist() == run.tolist()
        assert getattr(plain, kind)(run.size) == run.tolist()
    ours.end()


# ---- masks


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_masks_round_trip_in_every_coding(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 24), max_size=4)))
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    keep = np.asarray(generator.random(shape) < data.draw(st.sampled_from([0, 0.01, 0.1, 0.5, 0.9, 1])))
    if keep.ndim > 1 and data.draw(st.booleans()):
        keep = keep & (generator.random(shape[:1] + (1,) * (keep.ndim - 1)) < 0.5)
        keep = keep | (generator.random(shape[1:]) < 0.2)
    coding, stream = masks.encode(keep)
    assert np.array_equal(masks.decode(coding, stream, shape), keep)
    assert len(stream) <= (keep.size + 7) // 8
    for coding in masks.CODINGS[1:]:
        written = masks._write(keep.reshape(masks._view(shape, coding)), coding)
        if written is not None:
            assert np.array_equal(masks.decode(coding, written, shape), keep)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3, 3)])
def test_a_layer_without_weights_takes_no_bytes(shape: tuple[int, ...]) -> None:
    coding, stream = masks.encode(np.ones(shape, np.bool_))
    assert stream == b""
    assert masks.decode(coding, stream, shape).shape == shape


def structured(shape: tuple[int, int, int, int], seed: int = 0) -> tuple[NDArray[np.bool_], float]:
    """A mask of unequal outputs and inputs, and the bits per weight of the densities it is drawn from."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(shape[0], 1, 1, 1)) + generator.normal(size=(1, shape[1], 1, 1)) - 2.5
    p = 1 / (1 + np.exp(-logits))
    bits = float((-p * np.log2(p) - (1 - p) * np.log2(1 - p)).mean())
    return generator.random(shape) < p, bits


def test_unequal_rows_and_columns_go_below_the_entropy() -> None:
    keep, ideal = structured((128, 96, 3, 3))
    coding, stream = masks.encode(keep)
    assert coding == "channels"
    assert np.array_equal(masks.decode(coding, stream, keep.shape), keep)
    bits, bound = 8 * len(stream) / keep.size, entropy(int(keep.sum()), keep.size)
    assert bits < 0.9 * bound
    assert bits < 1.05 * ideal


@pytest.mark.parametrize("shape", [(256, 400), (64, 32, 3, 3)])
def test_empty_inputs_cost_next_to_nothing(shape: tuple[int, ...]) -> None:
    keep = np.random.default_rng(1).random(shape) < 0.3
    keep[:, ::2] = False
    keep[10:20] = False
    left = keep[np.r_[0:10, 20 : len(keep)]][:, 1::2]
    coding, stream = masks.encode(keep)
    assert coding == "channels"
    assert len(stream) * 8 < left.size * entropy(int(left.sum()), left.size) * 1.01 + 8 * 64 + 2 * sum(shape[:2])


def test_classes_by_hand() -> None:
    # 4·sqrt(count): 0, 40, 40, 80 and the mean's 45; bins of width 7 round it: -6, 0, 0, 5 (-> 0, 1, 1, 2)
    assert masks._binned(np.array([0, 100, 100, 400]), 600, 7).tolist() == [0, 1, 1, 2]
    keep = np.zeros((2, 2048, 1), np.bool_)
    keep[1] = True
    assert [part.max() for part in masks._classes(keep)] == [1, 0, 0]


@pytest.mark.parametrize("density", [0.005, 0.02, 0.1, 0.3, 0.5, 0.8, 0.99])
def test_files_stay_within_the_bound(density: float) -> None:
    ticket = resnet_like(density)
    assert len(ticket.to_bytes()) <= 1.005 * bound_bytes(ticket) + 4096


def resnet_like(density: float) -> Ticket:
    """A ticket with the names and small tensors of a ResNet-18, and widths that suit a test."""
    torch.manual_seed(3)
    kept, state = {}, {}
    for stage, width in enumerate((16, 32, 64, 128)):
        for block in range(2):
            for part in (1, 2):
                stem = f"stages.{stage}.{block}"
                kept[f"{stem}.conv{part}.weight"] = torch.rand(width, width, 3, 3) < density
                for leaf in ("weight", "bias", "running_mean", "running_var"):
                    state[f"{stem}.norm{part}.{leaf}"] = torch.randn(width)
                state[f"{stem}.norm{part}.num_batches_tracked"] = torch.tensor(99)
    trained = {name: torch.randn(int(keep.sum())) for name, keep in kept.items()}
    provenance = {"method": {"name": "imp", "rate": 0.2}, "recipe": {f"option_{i}": i / 7 for i in range(30)}}
    return Ticket(origin=SEEDED, mask=Mask(kept), state=state, trained=trained, provenance=provenance)


def test_signs_and_multipliers_take_their_entropy() -> None:
    torch.manual_seed(4)
    keep = torch.rand(200, 300) < 0.2
    kept = int(keep.sum())
    signs = torch.where(torch.rand(kept) < 0.5, -1, 1).to(torch.int8)
    rep = Representation("binary", {"w": torch.tensor(0.5)})
    ticket = Ticket(origin=SEEDED, mask=Mask({"w": keep}), representation=rep, trained={"w": signs})
    back = Ticket.from_bytes(ticket.to_bytes())
    assert back == ticket
    assert back.trained is not None
    assert torch.equal(back.trained["w"], signs)
    assert back.info()["bytes_by_kind"]["trained"] <= kept / 8 + 20
    coats = torch.zeros(200, 300, dtype=torch.int8)
    coats[keep] = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), kept, True).to(torch.int8) + 1
    ticket = Ticket(origin=SEEDED, mask=Mask({"w": keep}), multiplier={"w": coats})
    back = Ticket.from_bytes(ticket.to_bytes())
    assert back.multiplier is not None
    assert torch.equal(back.multiplier["w"], coats)
    assert back.info()["bytes_by_kind"]["multiplier"] * 8 <= kept * 1.157 * 1.02  # the entropy of .7, .2, .1
    wild = torch.zeros(200, 300, dtype=torch.int8)
    wild[keep] = (torch.arange(kept) % 100 + 1).to(torch.int8)  # too many to be symbols
    ticket = Ticket(origin=SEEDED, mask=Mask({"w": keep}), multiplier={"w": wild})
    back = Ticket.from_bytes(ticket.to_bytes())
    assert back.multiplier is not None
    assert torch.equal(back.multiplier["w"], wild)


def test_a_seeded_ticket_is_a_seed_and_a_mask() -> None:
    keep = torch.from_numpy(np.random.default_rng(0).random((512, 512)) < 0.1)
    ticket = Ticket(origin=SEEDED, mask=Mask({"w": keep}))
    assert bound_bytes(ticket) == pytest.approx(512 * 512 * entropy(int(keep.sum()), keep.numel()) / 8)
    assert len(ticket.to_bytes()) <= 1.001 * bound_bytes(ticket) + 1024
    row = ticket.layers()[0]
    assert (row.coding, row.bytes) == ("bernoulli", ticket.info()["bytes_by_kind"]["mask"])
    assert row.bound < row.bits < 1.001 * row.bound
    assert "bernoulli" in ticket.table()


# ---- rounded values


def test_rounding_by_hand(tmp_path: Path) -> None:
    weight = torch.zeros(2, 3)
    trained = torch.tensor([1.0, 1 + 2**-11, 1 + 3 * 2**-11, -(2.0**-30)])  # both middles go to even
    ticket = Ticket.from_models(
        origin=Origin.stored({"weight": weight}),
        mask=Mask({"weight": torch.tensor([[True, True, True], [True, False, False]])}),
        final_state={"weight": torch.cat([trained, torch.zeros(2)]).reshape(2, 3)},
        provenance={"method": "imp"},
    )
    assert ticket.save(tmp_path / "a") == ticket.digest == ticket.save(tmp_path / "b", values="float32")
    digest = ticket.save(tmp_path / "c", values="float16")
    back = Ticket.load(tmp_path / "c")
    assert back.trained is not None
    assert back.trained["weight"].tolist() == [1, 1, 1 + 2**-9, 0]
    assert back.provenance == {"method": "imp", "values": "float16"}
    assert back == ticket.rounded("float16") == back.rounded("float16") == back.rounded("float32")
    assert back.digest == digest
    assert back.info()["bytes_by_kind"]["trained"] == 8
    built: Any = back.build(model=torch.nn.Linear(3, 2, bias=False))
    assert built.weight.dtype == torch.float32
    assert built.weight.tolist() == [[1, 1, 1 + 2**-9], [0, 0, 0]]
    short = ticket.rounded("bfloat16").trained
    assert short is not None
    assert short["weight"].tolist() == [1, 1, 1, -(2.0**-30)]
    with pytest.raises(TicketError, match=r"float64.*unknown"):
        ticket.save(tmp_path / "d", values="float64")  # type: ignore[arg-type]


def test_rounding_never_makes_infinities() -> None:
    keep = torch.ones(2, dtype=torch.bool)
    ticket = Ticket(origin=SEEDED, mask=Mask({"w": keep}), trained={"w": torch.tensor([1.0, 70000.0])})
    with pytest.raises(TicketError, match=r"'w' has values up to 70000, float16 ends at 65504; use bfloat16"):
        ticket.rounded("float16")
    assert ticket.rounded("bfloat16").trained is not None
    own = Ticket(origin=SEEDED, mask=Mask({"w": keep}), trained={"w": torch.tensor([1.0, math.inf])})
    rounded = own.rounded("float16").trained
    assert rounded is not None
    assert rounded["w"].tolist() == [1, math.inf]


# ---- the index


@given(st.one_of(st.binary(max_size=400), st.text("ab{}", max_size=3000).map(str.encode)))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_index_is_a_raw_deflate_stream(data: bytes) -> None:
    packed = container._deflate(data)
    assert zlib.decompress(packed, -15) == data == container._inflate(packed, len(data))


def test_text_that_repeats_endlessly_is_read_again() -> None:
    """A reader takes no more than so many bytes from one of a file, which compressed text of this kind would exceed."""
    text = b"ab" * 4_000_000
    packed = container._deflate(text)
    assert container._inflate(packed, container._index_limit(len(packed))) == text


def test_inflate_is_bounded() -> None:
    bomb = container._deflate(b"\0" * 10**6)
    with pytest.raises(TicketError, match="more than 999999 bytes"):
        container._inflate(bomb, 999_999)
    assert len(container._inflate(bomb, 10**6)) == 10**6
    for bad in (b"", bomb[:-2], bomb + b"\0", b"\xff" * 9):
        with pytest.raises(TicketError, match="index"):
            container._inflate(bad, 10**6)


def test_alphabets_beyond_the_limit_are_refused() -> None:
    writer = BitWriter()
    writer.symbols(np.arange(17, dtype=np.int8))
    with pytest.raises(TicketError, match="17 different symbols; at most 16"):
        BitReader(writer.data()).symbols(17)
    assert bitcode.distinct(np.array([[3, -1], [3, 3]], np.int8)).tolist() == [-1, 3]


# ---- floating-point values


def test_coded_floats_are_read_as_the_page_says() -> None:
    values = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    values = (values.view(torch.int32) & ~0x7F).view(torch.float32)  # digits that are never used
    stream = floats.encode(values)
    assert stream is not None
    assert stream[0] == 0b1001
    middle = [stream[1 + 3000 * place : 1 + 3000 * (place + 1)] for place in (0, 1)]
    reader = zlib.decompressobj(-15)
    low = reader.decompress(stream[1 + 2 * 3000 :])
    high = zlib.decompress(reader.unused_data, -15)
    for value, *places in zip(values.tolist(), low, *middle, high, strict=True):
        word = int.from_bytes(bytes(places), "little")
        word = word >> 1 | (word & 1) << 31
        assert struct.unpack("<f", word.to_bytes(4, "little"))[0] == value


def test_a_run_is_coded_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = (np.random.default_rng(0).normal(size=3000) * 30).astype(np.int8)
    streams = set()
    for most in (1 << 20, 7, 100):
        monkeypatch.setattr(bitcode, "_AT_ONCE", most)
        writer = BitWriter()
        writer.values(values)
        streams.add(writer.data())
        assert (BitReader(writer.data()).values(3000) == values).all()
    assert len(streams) == 1


FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@given(st.sampled_from(FLOATS), st.integers(0, 2**32), st.integers(1, 400), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_floats_come_back_to_the_bit(dtype: torch.dtype, seed: int, count: int, bits: int) -> None:
    """NaN payloads, infinities, -0.0 and subnormals too: any bytes, of which some bits are never set."""
    draw = np.random.default_rng(seed)
    data = draw.integers(0, 256, count * dtype.itemsize, dtype=np.uint8) & np.uint8(bits)
    values = torch.from_numpy(data).view(dtype).reshape(1, count)
    if (stream := floats.encode(values)) is not None:
        assert len(stream) < values.nbytes
        assert same_bits(floats.decode(stream, dtype, (1, count)), values)
        with contextlib.suppress(TicketError):
            floats.decode(stream[:-1], dtype, (1, count))
        with contextlib.suppress(TicketError):
            floats.decode(stream, torch.float64, (count, 3))


@pytest.mark.parametrize("dtype", FLOATS[:4])
def test_weights_take_less_than_their_dtype(dtype: torch.dtype) -> None:
    """Exponents of normal values take about three bits."""
    values = torch.randn(20000, generator=torch.Generator().manual_seed(1)).to(dtype)
    stream = floats.encode(values)
    assert stream is not None
    saved = {torch.float64: 4, torch.float32: 5, torch.float16: 1.5, torch.bfloat16: 5}[dtype]
    assert 8 * len(stream) <= (8 * dtype.itemsize - saved) * 20000 + 8 * 100


def test_what_is_no_smaller_stays_as_it_is() -> None:
    for values in (
        torch.arange(5), torch.ones(0), torch.tensor(0.5), torch.ones(2, dtype=torch.complex64),
        torch.from_numpy(np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8)).view(torch.float32),
        torch.zeros(2**20, dtype=torch.float8_e5m2),  # a few bytes that stand for so many values are refused by readers
    ):  # fmt: skip
        assert floats.encode(values) is None


@given(st.binary(min_size=1, max_size=300), st.sampled_from(FLOATS), st.integers(0, 2**47))
@settings(max_examples=200, deadline=None)
def test_random_float_streams(data: bytes, dtype: torch.dtype, count: int) -> None:
    for size in (count, count % 300):
        with contextlib.suppress(TicketError):
            found = floats.decode(data, dtype, (size,))
            assert (found.shape, found.dtype) == ((size,), dtype)
