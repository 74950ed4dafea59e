"""The native side of `Program`: the loop over steps with its barrier, and how idle threads wait for work."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import NamedTuple

from llvmlite import ir

from tombola.deploy.jit.native import I32, I64, STEP, Code, compile_module, pause, yield_processor
from tombola.machine.locks import once

STATE, TABLE, STEPS, THREAD, THREADS, COUNTER, START, LOCK = range(8)
"""The words of a worker's mailbox, int64: its state, the arguments of `run`, the address of the lock it sleeps on."""
IDLE, POSTED, ASLEEP, DISMISSED = range(4)
"""The states of a worker."""
_PATIENCE = 256  # rounds of waiting after which the thread yields: others may be what it waits for


@once
def runner() -> Code:
    """Compiled once in a process. Its functions:

    `run(table, steps, thread, threads, counter, start)`: call table[2s](table[2s + 1], thread, threads) for each step
    s; after each, wait until every thread has finished it (counter: arrivals, `start` of them before this run).
    `together(boxes, table, steps, threads, counter)`: the same by threads - 1 workers and the caller as thread 0. In
    one call, since an exception of a signal handler between posting and working would leave the workers waiting.
    `serve(box, spins)`: run what is posted, until dismissed; sleep after `spins` rounds without work.
    """
    module = ir.Module("runner")
    emit(module, Waiting(_sleep, _wake, yield_processor))
    return compile_module(module)


class Waiting(NamedTuple):
    """How a thread waits, emitted. `sleep`, `wake`: (builder, mailbox); `rest`: let another thread run."""

    sleep: Callable[[ir.IRBuilder, ir.Value], None]
    wake: Callable[[ir.IRBuilder, ir.Value], None]
    rest: Callable[[ir.IRBuilder], None]


def emit(module: ir.Module, waiting: Waiting) -> tuple[ir.Function, ir.Function, ir.Function]:
    """The functions `run`, `together` and `serve` of a module."""
    run = _run(module, waiting)
    serve = _serve(module, run, waiting)
    return run, _together(module, run, waiting), serve


def _sleep(b: ir.IRBuilder, mailbox: ir.Value) -> None:
    """Until `_wake`. Python's own locks, which need no interpreter."""
    acquire = ir.FunctionType(I32, [I64, I32]).as_pointer()
    b.call(b.inttoptr(I64(_python("PyThread_acquire_lock")), acquire), [b.load(b.gep(mailbox, [I64(LOCK)])), I32(1)])


def _wake(b: ir.IRBuilder, mailbox: ir.Value) -> None:
    release = ir.FunctionType(ir.VoidType(), [I64]).as_pointer()
    b.call(b.inttoptr(I64(_python("PyThread_release_lock")), release), [b.load(b.gep(mailbox, [I64(LOCK)]))])


def new_lock() -> int:
    """The address of an acquired lock, which is never freed."""
    make, take = ctypes.pythonapi.PyThread_allocate_lock, ctypes.pythonapi.PyThread_acquire_lock
    make.restype, take.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int)
    lock: int | None = make()
    if not lock:
        raise MemoryError("no lock for another thread")
    take(lock, 1)
    return lock


def _python(name: str) -> int:
    """The address of a function of the interpreter."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


def _run(module: ir.Module, waiting: Waiting) -> ir.Function:
    words = I64.as_pointer()
    run = ir.Function(module, ir.FunctionType(ir.VoidType(), [words, I64, I64, I64, words, I64]), "run")
    table, steps, thread, threads, counter, start = run.args
    entry, loop, body, check, arrive, wait, spin, rest, after, done = (
        run.append_basic_block(name)
        for name in ("entry", "loop", "body", "check", "arrive", "wait", "spin", "rest", "after", "done")
    )
    b = ir.IRBuilder(entry)
    b.branch(loop)
    b.position_at_end(loop)
    step, goal = b.phi(I64), b.phi(I64)
    b.cbranch(b.icmp_signed("<", step, steps), body, done)
    b.position_at_end(body)
    at = b.gep(table, [b.mul(step, I64(2))])
    function = b.inttoptr(b.load(at), STEP.as_pointer())
    b.call(function, [b.inttoptr(b.load(b.gep(at, [I64(1)])), words), thread, threads])
    b.branch(check)
    b.position_at_end(check)
    further = b.add(goal, threads)
    b.cbranch(b.icmp_signed("==", threads, I64(1)), after, arrive)
    b.position_at_end(arrive)
    b.atomic_rmw("add", counter, I64(1), "acq_rel")
    b.branch(wait)
    b.position_at_end(wait)
    rounds = b.phi(I64)
    here = b.icmp_signed(">=", b.load_atomic(counter, "acquire", 8), further)
    b.cbranch(here, after, spin)
    b.position_at_end(spin)
    pause(b)
    more = b.add(rounds, I64(1))
    b.cbranch(b.icmp_signed("<", more, I64(_PATIENCE)), wait, rest)
    b.position_at_end(rest)
    waiting.rest(b)
    b.branch(wait)
    b.position_at_end(after)
    following = b.add(step, I64(1))
    b.branch(loop)
    b.position_at_end(done)
    b.ret_void()
    for phi, pairs in (
        (step, ((I64(0), entry), (following, after))),
        (goal, ((start, entry), (further, after))),
        (rounds, ((I64(0), arrive), (more, spin), (more, rest))),
    ):
        for value, block in pairs:
            phi.add_incoming(value, block)
    return run


def _serve(module: ir.Module, run: ir.Function, waiting: Waiting) -> ir.Function:
    words = I64.as_pointer()
    serve = ir.Function(module, ir.FunctionType(ir.VoidType(), [words, I64]), "serve")
    mailbox, spins = serve.args
    entry, wait, work, idle, spin, sleep, asleep, dismissed = (
        serve.append_basic_block(name)
        for name in ("entry", "wait", "work", "idle", "spin", "sleep", "asleep", "dismissed")
    )
    b = ir.IRBuilder(entry)
    b.branch(wait)
    b.position_at_end(wait)
    rounds = b.phi(I64)
    switch = b.switch(b.load_atomic(mailbox, "acquire", 8), idle)
    switch.add_case(I64(POSTED), work)
    switch.add_case(I64(DISMISSED), dismissed)
    b.position_at_end(work)
    table, steps, thread, threads, counter, start = (
        b.load(b.gep(mailbox, [I64(word)])) for word in (TABLE, STEPS, THREAD, THREADS, COUNTER, START)
    )
    b.store_atomic(I64(IDLE), mailbox, "release", 8)
    b.call(run, [b.inttoptr(table, words), steps, thread, threads, b.inttoptr(counter, words), start])
    b.branch(wait)
    b.position_at_end(idle)
    more = b.add(rounds, I64(1))
    b.cbranch(b.icmp_signed("<", more, spins), spin, sleep)
    b.position_at_end(spin)
    pause(b)
    with b.if_then(b.icmp_signed("==", b.and_(more, I64(_PATIENCE - 1)), I64(0)), likely=False):
        waiting.rest(b)
    again = b.block
    b.branch(wait)
    b.position_at_end(sleep)
    swapped = b.extract_value(b.cmpxchg(mailbox, I64(IDLE), I64(ASLEEP), "acq_rel", "acquire"), 1)
    b.cbranch(swapped, asleep, wait)
    b.position_at_end(asleep)
    waiting.sleep(b, mailbox)
    woken = b.block
    b.branch(wait)
    b.position_at_end(dismissed)
    b.ret_void()
    for value, block in ((I64(0), entry), (I64(0), work), (more, again), (more, sleep), (I64(0), woken)):
        rounds.add_incoming(value, block)
    return serve


def _together(module: ir.Module, run: ir.Function, waiting: Waiting) -> ir.Function:
    words = I64.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [words, words, I64, I64, words])
    together = ir.Function(module, kind, "together")
    mailboxes, table, steps, threads, counter = together.args
    entry, loop, body, done = (together.append_basic_block(name) for name in ("entry", "loop", "body", "done"))
    b = ir.IRBuilder(entry)
    start = b.load_atomic(counter, "acquire", 8)  # no thread works now: all arrivals so far
    b.branch(loop)
    b.position_at_end(loop)
    thread = b.phi(I64)
    b.cbranch(b.icmp_signed("<", thread, threads), body, done)
    b.position_at_end(body)
    mailbox = b.gep(mailboxes, [b.mul(b.sub(thread, I64(1)), I64(8))])
    posted = ((TABLE, b.ptrtoint(table, I64)), (STEPS, steps), (THREAD, thread), (THREADS, threads))
    for word, value in (*posted, (COUNTER, b.ptrtoint(counter, I64)), (START, start)):
        b.store(value, b.gep(mailbox, [I64(word)]))
    state = b.atomic_rmw("xchg", mailbox, I64(POSTED), "acq_rel")
    with b.if_then(b.icmp_signed("==", state, I64(ASLEEP))):
        waiting.wake(b, mailbox)
    following = b.add(thread, I64(1))
    last = b.block
    b.branch(loop)
    b.position_at_end(done)
    b.call(run, [table, steps, I64(0), threads, counter, start])
    b.ret_void()
    thread.add_incoming(I64(1), entry)
    thread.add_incoming(following, last)
    return together
