"""Deployed networks as libraries for C: the same bits, statuses instead of crashes, one-line refusals."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import msgspec
import pytest
import torch
from llvmlite import ir
from torch import Tensor, nn
from torch.nn import functional as F

import tombola as tb
from clocks import NATIVE, InOrder
from deployed_networks import thinned
from tombola.deploy.c.export import export_library, how_to_link
from tombola.deploy.c.link import link
from tombola.deploy.c.loaded import Loaded
from tombola.deploy.c.passes import passes_of
from tombola.deploy.c.processor import FEATURES, emit_check, this_processor
from tombola.deploy.deploy import Deployed
from tombola.deploy.export import export
from tombola.deploy.jit.native import compile_module
from tombola.deploy.kernels.sparse import Choices
from tombola.deploy.plan import RegionPlan
from tombola.errors import TombolaError
from tombola.nn.binary import BinaryActivation, use_binary_layers_

HERE = Path(__file__).parent
COMPILER = next((found for name in ("g++", "cc", "clang++") if (found := shutil.which(name))), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here")


def convolutions() -> nn.Module:
    """Two inputs of a residual, a pool, a strided convolution."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.c, self.d = nn.Conv2d(8, 8, 3, stride=2), nn.Linear(72, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.a(x))
            x = F.relu(self.b(x) + x)
            return self.d(F.max_pool2d(F.gelu(self.c(x)), 1).flatten(1))

    torch.manual_seed(0)
    return thinned(Network())


def linear() -> nn.Module:
    torch.manual_seed(0)
    return thinned(nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 7)))


def deployed(model: nn.Module, example: Tensor) -> Deployed:
    return tb.deploy(model, example, threads=2, clock=NATIVE)


CASES = {
    "chunks": (convolutions, (16, 2, 8, 8)),
    "rows": (convolutions, (1, 2, 8, 8)),
    "gemv": (linear, (1, 40)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Deployed, Path]:
    """A deployed network and the folder of its library: by chunks of images, by rows, and of vectors."""
    model, shape = CASES[request.param]
    fast = deployed(model(), torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    (part,) = fast.plan.parts
    assert part.choices is not None
    assert part.choices.split.by == ("chunks" if request.param == "chunks" else "rows")
    folder = tmp_path_factory.mktemp("library")
    found = export_library(fast, folder)
    assert {name: one["format"] for name, one in found.items()} == dict.fromkeys(
        ["network.h", "network.o", "libnetwork.so"], "c"
    )
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sizes == {name: one["bytes"] for name, one in found.items()}
    assert found["libnetwork.so"]["error"] == 0
    return fast, folder


def inputs_of(fast: Deployed, batch: int) -> Tensor:
    return torch.randn((batch, *fast.takes.shapes[0][1:]), generator=torch.Generator().manual_seed(batch))


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_outputs_are_pythons_to_the_bit(case: tuple[Deployed, Path], threads: int) -> None:
    fast, folder = case
    with Loaded(folder / "libnetwork.so", "network") as library:
        context = library.create(threads)
        for batch in (1, 3, 16, 41):
            x = inputs_of(fast, batch)
            want = fast(x)
            (have,) = library.run(context, [x], [want.shape[1:]])
            assert same_bits(want, have)
        library.destroy(context)


def test_what_is_not_finite_goes_through_as_in_python(case: tuple[Deployed, Path]) -> None:
    fast, folder = case
    x = inputs_of(fast, 4)
    x.view(4, -1)[0, 3], x.view(4, -1)[1, 5], x.view(4, -1)[2] = float("nan"), float("inf"), -float("inf")
    with Loaded(folder / "libnetwork.so", "network") as library:
        context = library.create(1)
        (have,) = library.run(context, [x], [fast(x).shape[1:]])
        library.destroy(context)
    want = fast(x)
    assert torch.equal(want.isnan(), have.isnan())
    assert torch.equal(want.nan_to_num(1.0), have.nan_to_num(1.0))
    assert not want.isfinite().all()


@needs_compiler
def test_a_program_in_c_uses_it_from_several_threads_and_is_told_its_mistakes(
    case: tuple[Deployed, Path], tmp_path: Path
) -> None:
    fast, folder = case
    program = compiled(HERE / "data" / "library.c", folder, tmp_path)
    x = inputs_of(fast, 5)
    Path(tmp_path, "in").write_bytes(x.numpy().tobytes())
    Path(tmp_path, "out").write_bytes(fast(x).numpy().tobytes())
    done = subprocess.run([program, tmp_path / "in", tmp_path / "out"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("good\n", "")


@needs_compiler
def test_the_example_in_c_prints_pythons_outputs(case: tuple[Deployed, Path], tmp_path: Path) -> None:
    fast, folder = case
    program = compiled(HERE.parent / "examples" / "c" / "run.c", folder, tmp_path)
    x = inputs_of(fast, 3)
    Path(tmp_path, "in").write_bytes(x.numpy().tobytes())
    for threads in ([], ["2"]):
        done = subprocess.run([program, tmp_path / "in", *threads], capture_output=True, text=True, check=True)
        have = torch.tensor([[float(word) for word in line.split()] for line in done.stdout.splitlines()])
        assert same_bits(have, fast(x))
    wrong = subprocess.run([program, tmp_path / "in", "3"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "the number of threads is not 1 to 2" in wrong.stderr


def compiled(source: Path, folder: Path, out: Path) -> Path:
    """Compiled as C++, so that the header is seen by both; the .c files hold to what both languages take."""
    assert COMPILER is not None
    language = ["-xc++"] if COMPILER.endswith("++") else []
    rest = ["-xnone"] if language else []
    line = [COMPILER, "-Wall", "-Wextra", "-Werror", "-O1", f"-I{folder}", *language, str(source), *rest]
    subprocess.run([*line, str(folder / "network.o"), "-pthread", "-o", str(out / "program")], check=True)
    return out / "program"


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = F.relu(self.a(x))
        return self.c(self.b(z) + y), z


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(4, 6), torch.randn(4, 4)
    plain = tb.deploy(TwoInputs().eval(), x, y, threads=1, clock=NATIVE)
    found = export_library(plain, tmp_path, "two_inputs")
    assert list(found) == ["two_inputs.h", "two_inputs.o", "libtwo_inputs.so"]
    with Loaded(tmp_path / "libtwo_inputs.so", "two_inputs") as library:
        assert [library.number("input_size", i) for i in range(3)] == [6, 4, 0]
        context = library.create(1)
        want = plain(x, y)
        have = library.run(context, [x, y], [(3,), (8,)])
        library.destroy(context)
    assert all(map(same_bits, want, have))


@pytest.mark.parametrize("batch", [1, 16])
def test_regions_one_after_the_other_run_piece_by_piece(batch: int, tmp_path: Path) -> None:
    """Three regions, since the middle layer was isolated: values between them lie in buffers of the context."""
    torch.manual_seed(0)
    x, y = torch.randn(batch, 6), torch.randn(batch, 4)
    model = TwoInputs().eval()
    whole = tb.deploy(model, x, y, threads=2, clock=NATIVE).plan
    (part,) = whole.parts
    assert part.choices is not None
    split, layers = part.choices.split, list(part.choices.layers.items())
    parts = [
        RegionPlan((name,), "native", Choices(split, dict([layer])))
        for name, layer in zip(("a", "b", "c"), layers, strict=True)
    ]
    plan = msgspec.structs.replace(whole, parts=tuple(parts), isolated=("b",))
    fast = tb.deploy(model, x, y, plan=plan)
    network = passes_of(fast)
    assert len(network.passes) == 3
    assert 1 < (network.piece or 0) < 50
    export_library(fast, tmp_path)
    with Loaded(tmp_path / "libnetwork.so", "network") as library:
        for threads in (1, 2):
            context = library.create(threads)
            for count in (1, 15, 16, 50):
                x, y = torch.randn(count, 6), torch.randn(count, 4)
                assert all(map(same_bits, fast(x, y), library.run(context, [x, y], [(3,), (8,)])))
            library.destroy(context)


def test_what_stays_in_torch_is_named(tmp_path: Path) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cumsum(self.layer(x), 1)

    fast = deployed(Network().eval(), torch.randn(2, 6))
    with pytest.raises(TombolaError, match=r"the model \(line \d+ of test_library.py\) stays in torch \(cumsum\)"):
        export_library(fast, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert fast.report.exports.startswith("exports: onnx_kernels keeps the kernels and their gain; onnx, torch and")
    assert "c is not possible: C has the native kernels alone, and the model (line" in fast.report.exports
    assert fast.report.exports in str(fast.report)


class TorchIsFastest(InOrder):
    """The last of all runs is the fastest."""

    def measure(self, runs: Mapping[Any, Any], *, rounds: int, threads: int, seconds: float | None = None) -> Any:
        return {name: [float(len(runs) - i)] for i, name in enumerate(runs)}


def test_regions_that_are_faster_in_torch_are_exported_when_kernels_alone_are_wanted(tmp_path: Path) -> None:
    model, x = linear(), torch.randn(1, 40)
    fast = tb.deploy(model, x, threads=1, clock=TorchIsFastest())
    assert [part.engine for part in fast.plan.parts] == ["torch-channels-last"]
    with pytest.raises(
        TombolaError, match="the region of 0 runs in torch, which was faster here; deploy with kernels_o"
    ):
        export_library(fast, tmp_path)
    kernels = tb.deploy(model, x, threads=1, clock=TorchIsFastest(), kernels_only=True)
    assert [part.engine for part in kernels.plan.parts] == ["native"]
    assert export_library(kernels, tmp_path)["libnetwork.so"]["error"] == 0
    again = tb.deploy(model, x, plan=kernels.plan)
    assert same_bits(again(x), kernels(x))


def test_binary_layers_on_packed_bits_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 64), nn.BatchNorm1d(64), BinaryActivation(), nn.Linear(64, 64), nn.Linear(64, 3)
    )
    with torch.no_grad():
        model[3].weight.copy_(0.1 * model[3].weight.sign())
    use_binary_layers_(model.eval(), ["3.weight"])
    fast = deployed(model, torch.randn(2, 64))
    with pytest.raises(TombolaError, match="binary layers on packed bits"):
        export_library(fast, tmp_path)


def test_names_folders_and_formats_that_cannot_be(tmp_path: Path) -> None:
    fast = deployed(linear(), torch.randn(1, 40))
    assert fast.report.exports.startswith(
        "exports: c and onnx_kernels keep the kernels and their gain; onnx, torch and"
    )
    for name in ("", "Network", "a-b", "2nd", "x" * 65, 'a"'):
        with pytest.raises(TombolaError, match="small letters, digits and underscores"):
            export_library(fast, tmp_path, name)
    (tmp_path / "network.o").mkdir()
    with pytest.raises(TombolaError, match=r"network\.o"):
        export_library(fast, tmp_path)
    with pytest.raises(TombolaError, match=r"tombola\.deploy\.c\.export\.export_library"):
        export(fast.compacted, (torch.randn(1, 40),), tmp_path, ["c"])


def test_without_a_linker_the_object_is_written_and_it_is_said_how_to_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = export_library(deployed(linear(), torch.randn(1, 40)), tmp_path)
    assert {name: one["error"] for name, one in found.items()} == {"network.h": None, "network.o": None}
    assert how_to_link().endswith("or run cc -shared -o libnetwork.so network.o -pthread")


def test_a_linker_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(TombolaError, match=r"does not link the library: .+; leave format c out"):
        link(shutil.which("ld") or shutil.which("cc") or "cc", [tmp_path / "none.o"], tmp_path / "none.so")
    with pytest.raises(TombolaError, match="cannot be run"):
        link(str(tmp_path / "nothing"), [tmp_path / "none.o"], tmp_path / "none.so")


@pytest.mark.skipif(this_processor().architecture != "x86_64", reason="of CPUID")
def test_the_processor_is_asked_for_each_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM and the library see the same features of this processor."""
    host = llvm.get_host_cpu_features()
    for name in FEATURES:
        assert has(name) == host.get(name, False), name
    assert has(*this_processor().needs)
    assert not set(this_processor().needs) - set(FEATURES)


def has(*needs: str) -> bool:
    module = ir.Module("check")
    emit_check(module, "check", needs)
    code = compile_module(module)
    return bool(ctypes.CFUNCTYPE(ctypes.c_int32)(code.address("check"))())


@pytest.mark.skipif(this_processor().architecture != "x86_64", reason="of CPUID")
def test_a_processor_without_what_the_code_needs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the code were made for a feature that no processor has: a reserved bit of leaf 1."""
    from tombola.deploy.c import export as library_export
    from tombola.deploy.c import processor

    monkeypatch.setattr(processor, "FEATURES", {**FEATURES, "unheard-of": processor.Bit(1, 0, processor.EDX, 10)})
    here = this_processor()
    monkeypatch.setattr(library_export, "this_processor", lambda: here._replace(needs=(*here.needs, "unheard-of")))
    with pytest.raises(TombolaError, match=r"lacks something that the code was made for: .*unheard-of"):
        export_library(deployed(linear(), torch.randn(1, 40)), tmp_path)
