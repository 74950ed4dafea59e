"""Steps on one and several threads: every share is done, steps do not overlap, forks and copies are safe."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from llvmlite import ir

from interruptions import Interrupt, named
from tombola.deploy.jit.native import I64, STEP, Code, compile_module
from tombola.deploy.jit.program import Program, Step
from tombola.errors import TombolaError
from tombola.machine.locks import once


def written() -> ir.Module:
    """`mark`: out[thread] = 10·out[thread] + digit. `total`: thread 0 writes the sum of out behind its end."""
    module = ir.Module()
    words = I64.as_pointer()
    mark = ir.Function(module, STEP, "mark")
    b = ir.IRBuilder(mark.append_basic_block())
    out = b.inttoptr(b.load(mark.args[0]), words)
    place = b.gep(out, [mark.args[1]])
    digit = b.load(b.gep(mark.args[0], [I64(1)]))
    b.store(b.add(b.mul(b.load(place), I64(10)), digit), place)
    b.ret_void()
    total = ir.Function(module, STEP, "total")
    b = ir.IRBuilder(total.append_basic_block())
    out = b.inttoptr(b.load(total.args[0]), words)
    with b.if_then(b.icmp_signed("==", total.args[1], I64(0))):
        found = I64(0)
        for thread in range(4):
            found = b.add(found, b.load(b.gep(out, [I64(thread)])))
        b.store(found, b.gep(out, [I64(4)]))
    b.ret_void()
    return module


@pytest.fixture(scope="module")
def code() -> Code:
    return compile_module(written())


def steps(code: Code, out: np.ndarray, digits: tuple[int, ...]) -> list[Step]:
    found = [Step(code.address("mark"), np.array([out.ctypes.data, d]), (code, out)) for d in digits]
    return [*found, Step(code.address("total"), np.array([out.ctypes.data]), (code, out))]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_every_thread_runs_every_step_in_order(code: Code, threads: int) -> None:
    out = np.zeros(5, np.int64)
    Program(steps(code, out, (1, 2, 3)), threads).run()
    assert out[:threads].tolist() == [123] * threads
    assert out[4] == 123 * threads  # the last step saw what all threads wrote


def test_runs_again_and_after_a_rest(code: Code) -> None:
    out = np.zeros(5, np.int64)
    program = Program(steps(code, out, (1,)), 2)
    for _ in range(200):
        out[:] = 0
        program.run()
        assert out[4] == 2
    time.sleep(0.05)  # the second thread sleeps by now
    out[:] = 0
    program.run()
    assert out[4] == 2


def test_no_steps() -> None:
    Program([], 2).run()


def test_arguments_may_be_changed_between_runs(code: Code) -> None:
    out, other = np.zeros(5, np.int64), np.zeros(5, np.int64)
    found = steps(code, out, (7,))
    program = Program(found, 2)
    for step in found:
        step.args[0] = other.ctypes.data
    program.run()
    assert (out[4], other[4]) == (0, 14)


def test_calls_from_several_python_threads_take_turns(code: Code) -> None:
    out = np.zeros(5, np.int64)
    program = Program(steps(code, out, (0,)), 2)
    seen = []

    def call() -> None:
        for _ in range(50):
            program.run()
        seen.append(True)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    assert len(seen) == 4


def test_programs_of_as_many_threads_share_them(code: Code) -> None:
    Program(steps(code, np.zeros(5, np.int64), (1,)), 3).run()
    before = threading.active_count()
    for _ in range(5):
        Program(steps(code, np.zeros(5, np.int64), (1,)), 3).run()
    assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_runs_with_threads_of_its_own(code: Code) -> None:
    out = np.zeros(5, np.int64)
    program = Program(steps(code, out, (3,)), 2)
    program.run()

    def child() -> None:
        out[:] = 0
        program.run()
        os._exit(0 if out[4] == 6 else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == 0


def test_copies_share_the_program_and_pickling_is_refused(code: Code) -> None:
    program = Program(steps(code, np.zeros(5, np.int64), (1,)), 1)
    assert copy.deepcopy(program) is program
    with pytest.raises(TombolaError, match="pickled"):
        pickle.dumps(program)


def test_threads_below_one_are_refused() -> None:
    with pytest.raises(TombolaError, match="threads is 0"):
        Program([], 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(
    "place",
    [
        ("llvmlite/binding/module.py", "parse_assembly"),
        ("llvmlite/binding/newpassmanagers.py", "run"),
        ("llvmlite/binding/executionengine.py", "create_mcjit_compiler"),
        ("llvmlite/binding/executionengine.py", "finalize_object"),
        ("llvmlite/binding/executionengine.py", "get_function_address"),
    ],
)
def test_what_interrupts_the_compiler_leaves_it_to_others(place: tuple[str, str], error: type[BaseException]) -> None:
    with Interrupt(error, named(*place)) as interrupt:
        compile_module(written())
    assert interrupt.reached
    with ThreadPoolExecutor(1) as pool:  # no lock is held
        code = pool.submit(compile_module, written()).result(60)
    out = np.zeros(5, np.int64)
    Program(steps(code, out, (1, 2)), 1).run()
    assert out[4] == 12


def test_what_is_interrupted_is_not_kept() -> None:
    asked = []

    @once
    def squared(n: int) -> int:
        asked.append(n)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return n * n

    with pytest.raises(KeyboardInterrupt):
        squared(3)
    assert (squared(3), squared(3), asked) == (9, 9, [3, 3])
