"""The native side of `Program`: the loop over steps with its barrier, and how idle threads wait for work."""

from __future__ import annotations

import functools

from llvmlite import ir

from tombola.runtime.native import I64, STEP, Code, compile_module, pause, yield_processor

STATE, TABLE, STEPS, THREAD, THREADS, COUNTER, START, FOUND = range(8)
"""The words of a worker's mailbox, int64: its state, the arguments of `run`, and the state that `post` found."""
IDLE, POSTED, ASLEEP, QUIT = range(4)
"""The states of a worker."""
_PATIENCE = 256  # rounds of waiting after which other threads are let run: they may be those that are waited for


@functools.cache
def runner() -> Code:
    """Compiled once in a process. Its functions:

    `run(table, steps, thread, threads, counter, start)`: call table[2s](table[2s + 1], thread, threads) for each step
    s; after each, wait until every thread has come so far (counter: arrivals, `start` of them before this run).
    `serve(box, spins)`: run what is posted, until `spins` rounds have passed without (0: asleep now) or QUIT (1).
    `post(boxes, workers)`: post to all; the number of workers found asleep.
    """
    module = ir.Module("runner")
    run = _run(module)
    _serve(module, run)
    _post(module)
    return compile_module(module)


def _run(module: ir.Module) -> ir.Function:
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
    yield_processor(b)
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


def _serve(module: ir.Module, run: ir.Function) -> None:
    words = I64.as_pointer()
    serve = ir.Function(module, ir.FunctionType(I64, [words, I64]), "serve")
    box, spins = serve.args
    entry, wait, work, idle, spin, sleep, asleep, quits = (
        serve.append_basic_block(name) for name in ("entry", "wait", "work", "idle", "spin", "sleep", "asleep", "quits")
    )
    b = ir.IRBuilder(entry)
    b.branch(wait)
    b.position_at_end(wait)
    rounds = b.phi(I64)
    switch = b.switch(b.load_atomic(box, "acquire", 8), idle)
    switch.add_case(I64(POSTED), work)
    switch.add_case(I64(QUIT), quits)
    b.position_at_end(work)
    table, steps, thread, threads, counter, start = (
        b.load(b.gep(box, [I64(word)])) for word in (TABLE, STEPS, THREAD, THREADS, COUNTER, START)
    )
    b.store(b.add(start, b.mul(steps, threads)), b.gep(box, [I64(START)]))
    b.store_atomic(I64(IDLE), box, "release", 8)
    b.call(run, [b.inttoptr(table, words), steps, thread, threads, b.inttoptr(counter, words), start])
    b.branch(wait)
    b.position_at_end(idle)
    more = b.add(rounds, I64(1))
    b.cbranch(b.icmp_signed("<", more, spins), spin, sleep)
    b.position_at_end(spin)
    pause(b)
    with b.if_then(b.icmp_signed("==", b.and_(more, I64(_PATIENCE - 1)), I64(0)), likely=False):
        yield_processor(b)
    again = b.block
    b.branch(wait)
    b.position_at_end(sleep)
    swapped = b.extract_value(b.cmpxchg(box, I64(IDLE), I64(ASLEEP), "acq_rel", "acquire"), 1)
    b.cbranch(swapped, asleep, wait)
    b.position_at_end(asleep)
    b.ret(I64(0))
    b.position_at_end(quits)
    b.ret(I64(1))
    for value, block in ((I64(0), entry), (I64(0), work), (more, again), (more, sleep)):
        rounds.add_incoming(value, block)


def _post(module: ir.Module) -> None:
    post = ir.Function(module, ir.FunctionType(I64, [I64.as_pointer(), I64]), "post")
    boxes, workers = post.args
    entry, loop, body, done = (post.append_basic_block(name) for name in ("entry", "loop", "body", "done"))
    b = ir.IRBuilder(entry)
    b.branch(loop)
    b.position_at_end(loop)
    worker, asleep = b.phi(I64), b.phi(I64)
    b.cbranch(b.icmp_signed("<", worker, workers), body, done)
    b.position_at_end(body)
    box = b.gep(boxes, [b.mul(worker, I64(8))])
    found = b.atomic_rmw("xchg", box, I64(POSTED), "acq_rel")
    b.store(found, b.gep(box, [I64(FOUND)]))
    total = b.add(asleep, b.zext(b.icmp_signed("==", found, I64(ASLEEP)), I64))
    following = b.add(worker, I64(1))
    b.branch(loop)
    b.position_at_end(done)
    b.ret(asleep)
    for phi, value in ((worker, following), (asleep, total)):
        phi.add_incoming(I64(0), entry)
        phi.add_incoming(value, body)
