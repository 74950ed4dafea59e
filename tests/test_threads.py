"""Threads, forks and signals: what is compiled, cached, traced and run is shared by a process without harm."""

from __future__ import annotations

import os

import pytest

from apart import NETWORK, run_apart

START = (
    NETWORK
    + """
import os, signal, sys, threading, traceback
from msgspec.structs import replace

sys.setswitchinterval(1e-4)
wrong = []

def together(*works):
    def guarded(work):
        try:
            work()
        except BaseException:
            wrong.append(traceback.format_exc())
    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong, wrong[0]

def right(fast, given=None, answer=None):
    assert ((fast(x if given is None else given) - (want if answer is None else answer)).abs().max() < 1e-4)

BOTH = replace(PLAN, threads=2)
"""
)


def test_threads_compile_deploy_trace_and_infer_at_once() -> None:
    script = (
        START
        + """
from tombola.deploy.kernels import sparse
from tombola.deploy.ops import Linear, Region
from tombola.compact import compact
from tombola.select import select

# compiling: every thread wants the same kernels first
region = Region({"x": (64,)}, (Linear("f", "x", "y", torch.randn(32, 64) * (torch.rand(32, 64) < 0.3)),), ("y",))
rows = torch.randn(3, 64)
answer = rows @ region.ops[0].weight.T
CHOICE = Choices(Split("rows", 1), {"y": Coding(4, 1, False)})

def built(n):
    native = sparse.build(region, 1, n, CHOICE)
    for _ in range(20):
        assert (native(rows)[0] - answer).abs().max() < 1e-4

together(*[lambda n=n: built(n) for n in (1, 2, 1, 2)])

# deploying with a saved plan, and calling what comes back
def deployed(seed, plan):
    mine = network(seed)
    fast = tb.deploy(mine, x, plan=plan)
    for _ in range(20):
        right(fast, x, mine(x))

together(*[lambda i=i: deployed(i, (PLAN, BOTH)[i % 2]) for i in range(4)])

# one deployed network, many callers
for plan in (PLAN, BOTH):
    fast = tb.deploy(model, x, plan=plan)
    inputs = [torch.randn(n, 1, 8, 8) for n in (1, 3, 8, 2)]
    answers = [model(one).detach() for one in inputs]
    together(*[lambda i=i: [right(fast, inputs[i], answers[i]) for _ in range(20)] for i in range(4)])

# while one thread compacts, modules in others are called as ever
other, stop = network(7), threading.Event()
expected = other(x).detach()

def compacts():
    try:
        for _ in range(15):
            assert compact(model, x).report.reason is None
    finally:
        stop.set()

def eager():
    while not stop.is_set():
        right(other, x, expected)

together(compacts, eager, eager)
assert nn.Module.__call__ is nn.Module._wrapped_call_impl and "__call__" not in type(model[0]).__dict__
assert [type(part) for part in model] == [nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear]

# selection
scores = {"w": torch.randn(600_000)}
once = select(scores, density=0.1, scope="global")
torch.set_num_threads(2)
together(*[lambda: [torch.testing.assert_close(select(scores, density=0.1, scope="global")["w"], once["w"])
                    for _ in range(5)] for _ in range(4)])
print("done")
"""
    )
    assert "done" in run_apart(script)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_children_of_a_process_whose_threads_infer_and_compile_infer_too() -> None:
    script = (
        START
        + """
import itertools, warnings
warnings.simplefilter("ignore")
from llvmlite import ir
from tombola.deploy.jit.native import compile_module, STEP
from tombola.runs.jobs import limit_threads

torch.set_num_threads(1)
networks = [tb.deploy(model, x, plan=plan) for plan in (PLAN, BOTH)]
large, stop = torch.randn(64, 1, 8, 8), threading.Event()
one, two = networks

def infers(fast):
    while not stop.is_set():
        fast(large)

def compiles():
    while not stop.is_set():
        module = ir.Module()
        ir.IRBuilder(ir.Function(module, STEP, "step").append_basic_block()).ret_void()
        compile_module(module)

def measures():
    while not stop.is_set():
        with limit_threads(1, exclusive=True):
            one(x)

def forks():
    try:
        for _ in range(8):
            child = os.fork()
            if child == 0:
                signal.alarm(60)  # a child that hangs dies of it
                try:
                    for fast in networks:
                        right(fast)
                    right(tb.deploy(network(), x, plan=BOTH))
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()

together(lambda: infers(one), lambda: infers(two), compiles, measures, forks)
print("done")
"""
    )
    assert "done" in run_apart(script)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_workers_of_a_data_loader_infer_and_other_processes_are_told() -> None:
    script = (
        START
        + """
import multiprocessing, pickle, warnings
warnings.simplefilter("ignore")

fast = tb.deploy(model, x, plan=BOTH)
fast(x)

class Answers(torch.utils.data.Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, i):
        return fast(x)[0]

for batch in torch.utils.data.DataLoader(Answers(), 3, num_workers=2, multiprocessing_context="fork"):
    assert (batch - want).abs().max() < 1e-4
try:
    pickle.dumps(fast)
except TombolaError as error:
    assert "\\n" not in str(error)
else:
    raise AssertionError("pickled")
print("done")
"""
    )
    assert "done" in run_apart(script)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no timers here")
def test_an_interrupted_call_leaves_the_network_whole() -> None:
    script = (
        START
        + """
class Stop(Exception):
    pass

def interrupt(*_):
    raise Stop

fast = tb.deploy(model, x, plan=BOTH)
large = torch.randn(16, 1, 8, 8)
answer = model(large).detach()
signal.signal(signal.SIGALRM, interrupt)
stopped = 0
for turn in range(40):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002 + 0.00001 * (turn % 40))
        for _ in range(1000):
            fast(large)
    except Stop:
        stopped += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    right(fast, large, answer)
assert stopped == 40, stopped

# a handler that calls what it interrupted is told so, and nothing is harmed
told = []

def again(*_):
    try:
        told.append(bool(((fast(x) - want).abs() < 1e-4).all()))
    except TombolaError as error:
        told.append("inside its own call" in str(error))

signal.signal(signal.SIGALRM, again)
for turn in range(20):
    signal.setitimer(signal.ITIMER_REAL, 0.00005 + 0.00001 * (turn % 20))
    right(fast, large, answer)
signal.setitimer(signal.ITIMER_REAL, 0)
assert told and all(told)
print("done")
"""
    )
    assert "done" in run_apart(script)


def test_a_mask_is_held_for_each_thread_that_calls() -> None:
    script = (
        START
        + """
from tombola.mask import Mask

model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2))
mask = Mask({"0.0.weight": torch.zeros(4, 4, dtype=torch.bool)})
inside, seen = threading.Event(), threading.Event()
held = tb.hold(model, mask)

class Waits(nn.Module):
    def forward(self, x):
        inside.set()
        seen.wait(20)
        return x

model[0].append(Waits())
def part():
    model[0](torch.ones(1, 4))

def whole():
    inside.wait(20)
    model[0][0].weight.data.fill_(1.0)
    model[0][2].forward = lambda x: x
    bias, last = model[0][0].bias, model[1]
    found = model(torch.ones(1, 4))
    seen.set()
    assert (model[0][0].weight == 0).all()
    torch.testing.assert_close(found, last(torch.relu(bias)[None]))

together(part, whole)
print("done")
"""
    )
    assert "done" in run_apart(script)
