"""Held models that are copied, pickled, wrapped, compiled, traced and exported."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import init_device_mesh
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.optim.swa_utils import AveragedModel
from torch.utils.hooks import RemovableHandle

import tombola as tb
from hold_models import X, is_held, is_zero, nested, some_mask, step, weight
from tombola.data.splits import make_splits
from tombola.errors import TombolaError
from tombola.hold import hold, release
from tombola.mask import Mask
from tombola.ticket.origin import Origin
from tombola.ticket.ticket import Ticket
from tombola.train.connectivity import is_cut


def fill(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.fill_(1.0)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


# ---- copies ------------------------------------------------------------------------------------------------------


def test_a_deep_copy_is_held_by_itself_as_long_as_the_hold_lasts() -> None:
    model = nested()
    mask = some_mask(model)
    with hold(model, mask):
        model(X)
        twin = copy.deepcopy(model)
        fill(model)
        fill(twin)
        twin(X)
        assert is_held(twin, mask)
        assert not is_held(model, mask)  # and does not write into the original
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
        twin(X).square().sum().backward()
        gradients = {name: twin.get_parameter(name).grad for name in mask}
        assert all(is_zero(gradients[name][~kept]) for name, kept in mask.items())  # type: ignore[index]
        fill(twin)
        optimizer.step()
        assert is_held(twin, mask)
        assert not is_held(model, mask)
        model(X)
        twin(X)
    fill(twin)
    twin(X).square().sum().backward()
    assert not is_held(twin, mask)


def test_a_copy_of_a_part_and_a_shallow_copy_are_held() -> None:
    model = nested()
    mask = some_mask(model)
    inner = Mask({name.removeprefix("encoder."): mask[name] for name in mask if name.startswith("encoder")})
    with hold(model, mask):
        part = copy.deepcopy(model.encoder)
        fill(part)
        part(X)
        assert is_held(part, inner)
        fill(part)
        torch.optim.SGD(part.parameters(), lr=0.1).step()
        assert is_held(part, inner)
        shallow = copy.copy(model)
        fill(shallow)
        shallow(X)
        assert is_held(model, mask)


def test_a_copy_can_be_released_alone() -> None:
    model = nested()
    mask = some_mask(model)
    with hold(model, mask):
        twin = copy.deepcopy(model)
        twin(X)
        release(twin)
        assert hooks(twin) == 0
        fill(twin)
        twin(X).square().sum().backward()
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
        optimizer.step()
        assert not is_held(twin, mask)
        assert any(bool((twin.get_parameter(n).grad[~k] != 0).any()) for n, k in mask.items())  # type: ignore[index]
        fill(model)
        model(X)
        assert is_held(model, mask)
        release(model)
        assert hooks(model) == 0
        step(model, torch.optim.SGD(model.parameters(), lr=0.1))
        assert not is_held(model, mask)


def test_averaged_models_are_held() -> None:
    model = nested()
    mask = some_mask(model)
    with hold(model, mask):
        average = AveragedModel(model)
        for _ in range(2):
            fill(model)
            average.update_parameters(model)
        average(X)
        assert is_held(average.module, mask)


def pickled(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def test_a_saved_model_is_held_where_it_is_loaded_until_it_is_released() -> None:
    model = nested()
    mask = some_mask(model)
    held = hold(model, mask)
    step(model, torch.optim.SGD(model.parameters(), lr=0.1))
    loaded = pickled(model)
    held.release()
    fill(loaded)
    loaded(X)
    assert is_held(loaded, mask)
    fill(loaded)
    torch.optim.SGD(loaded.parameters(), lr=0.1).step()
    assert is_held(loaded, mask)
    assert list(loaded.state_dict()) == list(model.state_dict())
    release(loaded)
    fill(loaded)
    loaded(X)
    assert not is_held(loaded, mask)


def test_hooks_that_are_registered_after_loading_do_not_take_the_place_of_loaded_ones() -> None:
    model = nested()
    mask = some_mask(model)
    with hold(model, mask):
        data = pickle.dumps(model)
    before = RemovableHandle.next_id
    RemovableHandle.next_id = 0  # a new process
    try:
        loaded = pickle.loads(data)
        count = hooks(loaded)
        for module in loaded.modules():
            for _ in range(40):
                module.register_forward_pre_hook(lambda module, args: None)
        assert hooks(loaded) == count + 40 * len(list(loaded.modules()))
    finally:
        RemovableHandle.next_id = max(before, RemovableHandle.next_id)
    fill(loaded)
    loaded(X)
    assert is_held(loaded, mask)


def _works_in_another_process(data: bytes) -> bool:
    model, mask = pickle.loads(data)
    fill(model)
    model(X)
    return is_held(model, Mask(mask))


def test_a_held_model_can_be_sent_to_a_spawned_process() -> None:
    model = nested()
    mask = some_mask(model)
    with hold(model, mask), multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_works_in_another_process, (pickle.dumps((model, dict(mask))),))


# ---- wrappers ----------------------------------------------------------------------------------------------------


def test_a_model_in_a_larger_one_or_with_wrapped_parts() -> None:
    model = nested()
    mask = some_mask(model)
    with hold(model, mask):
        fill(model)
        nn.Sequential(model, nn.ReLU())(X)
        assert is_held(model, mask)
        model.encoder = checkpoint_wrapper(model.encoder)  # type: ignore[no-untyped-call]
        model.encoder._checkpoint_wrapped_module[0] = checkpoint_wrapper(nn.Linear(5, 4))  # type: ignore[no-untyped-call, index, operator]
        fill(model)
        model(X).sum().backward()
        plain = model.encoder._checkpoint_wrapped_module[0]._checkpoint_wrapped_module  # type: ignore[index, union-attr]
        assert is_zero(plain.weight[~mask["encoder.0.weight"]])
        assert is_zero(plain.weight.grad[~mask["encoder.0.weight"]])
        fill(model)
        model.encoder(X)
        assert is_zero(plain.weight[~mask["encoder.0.weight"]])


@pytest.fixture
def alone(tmp_path: Path) -> object:
    """A process group of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("wrap_first", [True, False])
def test_distributed_data_parallel(wrap_first: bool) -> None:
    model = nested()
    mask = some_mask(model)
    if wrap_first:
        wrapped = nn.parallel.DistributedDataParallel(model)
        held = hold(wrapped, mask)
    else:
        held = hold(model, mask)
        wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        fill(model)
        wrapped(X).square().sum().backward()
        assert is_held(model, mask)
        assert all(is_zero(model.get_parameter(n).grad[~k]) for n, k in mask.items())  # type: ignore[index]
        fill(model)
        optimizer.step()
        assert is_held(model, mask)
    held.release()
    assert hooks(model) == 0


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("kind", ["before", "after", "nested", "flat", "flat with views"])
def test_fully_sharded_models(kind: str) -> None:
    model = nested()
    mask = some_mask(model)
    seen = []
    held = hold(model, mask) if kind != "after" else None
    run: nn.Module = model
    if kind.startswith("flat"):
        cpu = torch.device("cpu")
        run = FullyShardedDataParallel(model, use_orig_params="views" in kind, device_id=cpu)
        if kind == "flat":
            with pytest.raises(TombolaError, match=r"sharded already.*before FullyShardedDataParallel"):
                hold(run, mask)
    else:
        mesh = init_device_mesh("cpu", (1,))
        for part in (model.encoder, model) if kind == "nested" else (model,):
            fully_shard(part, mesh=mesh)
    held = held or hold(run, mask)
    for name in mask:
        module = model.get_submodule(name.rpartition(".")[0])
        used = lambda module, args, kept=mask[name]: seen.append(is_zero(module.weight.detach()[~kept]))  # noqa: E731
        module.register_forward_pre_hook(used)
    optimizer = torch.optim.SGD(run.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        fill(run)
        run(X).square().sum().backward()
        fill(run)
        optimizer.step()
        if not kind.startswith("flat"):
            state = {name: value.full_tensor() for name, value in run.state_dict().items() if name in mask}
            assert all(is_zero(state[name][~kept]) for name, kept in mask.items())
    assert len(seen) == 6
    assert all(seen)
    held.release()


# ---- compilers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["model", "wrapper", "part", "in place"])
def test_compiled_models_and_parts(what: str) -> None:
    torch.compiler.reset()
    model = nested()
    mask = some_mask(model)
    run: nn.Module = model
    if what == "wrapper":
        run = nn.Sequential(model)
    if what in ("model", "wrapper"):
        run = torch.compile(run, backend="aot_eager")  # type: ignore[assignment]
    elif what == "part":
        model.encoder = torch.compile(model.encoder, backend="aot_eager")  # type: ignore[assignment]
    else:
        model.compile(backend="aot_eager")
    run(X)  # compiled without the hooks
    inner = "encoder._orig_mod." if what == "part" else "encoder."
    weights = {name: model.get_parameter(name.replace("encoder.", inner)) for name in mask}
    held = hold(model, mask)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        fill(model)
        run(X).square().sum().backward()
        assert all(is_zero(weights[name][~kept]) for name, kept in mask.items())
        assert all(is_zero(weights[name].grad[~kept]) for name, kept in mask.items())  # type: ignore[index]
        fill(model)
        optimizer.step()
        assert all(is_zero(weights[name][~kept]) for name, kept in mask.items())
    fill(model)
    model.encoder(X)
    assert is_zero(weights["encoder.2.weight"][~mask["encoder.2.weight"]])
    held.release()
    fill(model)
    run(X)
    assert not any(is_zero(weights[name][~kept]) for name, kept in mask.items())


def test_held_models_compile_into_one_graph_with_values() -> None:
    torch.compiler.reset()
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    mask = some_mask(model)
    values = {name: torch.full(kept.shape, -0.25) for name, kept in mask.items()}
    with hold(model, mask, values):
        run = torch.compile(model, backend="aot_eager", fullgraph=True)
        for _ in range(2):
            model[0].weight.data.fill_(torch.nan)
            run(X).sum().backward()
            assert all(bool((weight(model, name)[~kept] == -0.25).all()) for name, kept in mask.items())


def test_traces_and_exports_hold_no_trace_of_the_hold() -> None:
    model = nested().eval()
    mask = some_mask(model)
    with hold(model, mask):
        fill(model)
        expected = model(X)
        fill(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            traced = torch.jit.trace(model, X)
        assert is_held(model, mask)
        assert "mul" not in str(traced.inlined_graph)
        assert torch.equal(traced(X), expected)
        exported = torch.export.export(model, (X,)).module()
        assert torch.equal(exported(X), expected)
        fill(model)
        symbolic = torch.fx.symbolic_trace(model)
        assert torch.equal(symbolic(X), expected)


# ---- Tombola's own copies ------------------------------------------------------------------------------------------


def test_what_tombola_makes_of_a_held_model_is_plain_and_masked() -> None:
    model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    mask = Mask({**some_mask(model), "0.weight": (torch.arange(8) % 2 == 0)[:, None].expand(8, 64)})
    x = torch.randn(3, 64)
    with hold(model, mask):
        fill(model)
        compacted = tb.compact.compact(model, x)
        assert [row.units for row in compacted.report.layers] == [(8, 4), (10, 10)]  # half of the units are constant
        fast = tb.deploy(model, x)
        out = model(x)
        assert torch.allclose(compacted.module(x), out, atol=1e-4)
        assert torch.allclose(fast(x), out, atol=1e-4)
        ticket = Ticket.from_models(
            origin=Origin.stored(model.state_dict()),
            mask=mask,
            final_state=model.state_dict(),
            model=model,
            provenance={"rewound_steps": 0},
        )
        built = ticket.build(model=model)
        assert hooks(built) == 0
        assert is_held(built, mask)
        fill(built)
        built(x)
        assert not is_held(built, mask)
        assert not is_cut(model, mask, x)


def test_a_search_that_is_given_a_held_model_trains_and_prunes_all_of_its_copy() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    images = torch.randn(40, 1, 2, 2)
    data = make_splits((images, images[:, 0, 0, 0].gt(0).long()), (images, images[:, 0, 0, 0].gt(0).long()), None)
    held = Mask({name: torch.arange(kept.numel()).view(kept.shape) % 4 > 0 for name, kept in some_mask(model).items()})
    with hold(model, held):
        recipe = tb.Recipe(length="40it", optimizer="adam", lr=0.1, batch_size=10)
        ticket = tb.find(model, data, tb.IterativePruning(density=0.5, rounds=1), recipe=recipe)
    assert any(bool((ticket.mask[name] & ~kept).any()) for name, kept in held.items())
