"""The library's own functions, emitted: contexts made and freed, a batch run, what stands in the header.

They run on any processor of the architecture, for they look whether this one has what the kernels need.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from llvmlite import ir

from tombola.deploy.c.emit import (
    BYTE,
    NOTHING,
    POINTER,
    VOID,
    WORDS,
    constant,
    counted,
    declared,
    is_null,
    numbers,
    started,
    text,
)
from tombola.deploy.c.image import HEAD, LINE, LOCK_WORDS, WORD, Image, Kind, PassWords
from tombola.deploy.c.passes import Passes, Where
from tombola.deploy.c.processor import emit_check
from tombola.deploy.jit import runner
from tombola.deploy.jit.native import I32, I64, STEP
from tombola.deploy.kernels.sparse.template import PAGE

ABI = 1
"""The number of this set of functions; another where a program would have to change."""


class Status(IntEnum):
    """What the functions give."""

    OK = 0
    PROCESSOR = 1
    MEMORY = 2
    THREADS = 3
    NO_THREADS = 4
    NOTHING_GIVEN = 5
    COUNT = 6
    BATCH = 7
    SIZE = 8
    BUSY = 9


def messages(network: Passes, needs: Sequence[str]) -> dict[Status, str]:
    """What each status means, in a line."""
    only = "1 or more" if network.batch is None else str(network.batch)
    inputs, outputs = len(network.inputs), len(network.outputs)
    return {
        Status.OK: "done",
        Status.PROCESSOR: "the processor or its system lacks something that the code was made for: " + " ".join(needs),
        Status.MEMORY: "there is not enough memory for a context",
        Status.THREADS: f"the number of threads is not 1 to {network.threads}, which the network was deployed with",
        Status.NO_THREADS: "the system starts no more threads",
        Status.NOTHING_GIVEN: "an address is null",
        Status.COUNT: f"the number of inputs is not {inputs}, or that of outputs not {outputs}",
        Status.BATCH: f"the batch is not {only}",
        Status.SIZE: "an input's or output's size is not the batch times that of one example",
        Status.BUSY: "another thread is running this context; make one for each thread",
    }


def runtime(network: Passes, image: Image, name: str, needs: Sequence[str]) -> ir.Module:
    """The module; functions of kernels are declared as `step_1` .., in the order of the image's codes."""
    return _Runtime(network, image, name, needs).module


class _Runtime:
    def __init__(self, network: Passes, image: Image, name: str, needs: Sequence[str]) -> None:
        self.module = ir.Module(name)
        self._network, self._image, self._name = network, image, name
        self._libc = declared(self.module)
        waiting = runner.Waiting(self._sleep, self._wake, lambda b: b.call(self._libc["sched_yield"], []))
        self._run_steps, self._together, self._serve = runner.emit(self.module, waiting)
        self._check = emit_check(self.module, "has_features", needs)
        self._work, self._share = self._emit_work(), self._emit_share()
        self._go = self._emit_go()
        self._destroy = self._emit_destroy()
        self._emit_numbers()
        self._emit_message([line for _, line in sorted(messages(network, needs).items())])
        self._emit_create()
        self._emit_run()

    # ---- small things ------------------------------------------------------------------------------------------------

    def _function(self, name: str, result: ir.Type, *arguments: ir.Type) -> tuple[ir.Function, ir.IRBuilder]:
        return started(self.module, name, result, *arguments)

    def _public(self, name: str, result: ir.Type, *arguments: ir.Type) -> tuple[ir.Function, ir.IRBuilder]:
        return started(self.module, f"{self._name}_{name}", result, *arguments)

    @staticmethod
    def _at(b: ir.IRBuilder, context: ir.Value, offset: int) -> ir.Value:
        """The word so many bytes from the start of a context."""
        return b.gep(context, [I64(offset // WORD)])

    def _head(self, b: ir.IRBuilder, context: ir.Value, name: str) -> ir.Value:
        return self._at(b, context, WORD * HEAD.index(name))

    def _element(self, b: ir.IRBuilder, array: ir.GlobalVariable, index: ir.Value) -> ir.Value:
        return b.load(b.gep(array, [I64(0), index]))

    @staticmethod
    def _refuse(b: ir.IRBuilder, when: ir.Value, status: Status) -> None:
        with b.if_then(when, likely=False):
            b.ret(I32(status))

    # ---- threads -----------------------------------------------------------------------------------------------------

    def _lock_of(self, b: ir.IRBuilder, mailbox: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The mutex and the condition of a worker."""
        lock = b.inttoptr(b.load(b.gep(mailbox, [I64(runner.LOCK)])), POINTER)
        return lock, b.gep(lock, [I64(WORD * LOCK_WORDS // 2)])

    def _sleep(self, b: ir.IRBuilder, mailbox: ir.Value) -> None:
        mutex, condition = self._lock_of(b, mailbox)
        b.call(self._libc["pthread_mutex_lock"], [mutex])
        asleep, wait, awake = (b.append_basic_block(name) for name in ("asleep", "wait", "awake"))
        b.branch(asleep)
        b.position_at_end(asleep)
        state = b.load_atomic(mailbox, "acquire", 8)
        b.cbranch(b.icmp_signed("==", state, I64(runner.ASLEEP)), wait, awake)
        b.position_at_end(wait)
        b.call(self._libc["pthread_cond_wait"], [condition, mutex])
        b.branch(asleep)
        b.position_at_end(awake)
        b.call(self._libc["pthread_mutex_unlock"], [mutex])

    def _wake(self, b: ir.IRBuilder, mailbox: ir.Value) -> None:
        """After its state has changed."""
        mutex, condition = self._lock_of(b, mailbox)
        b.call(self._libc["pthread_mutex_lock"], [mutex])
        b.call(self._libc["pthread_cond_signal"], [condition])
        b.call(self._libc["pthread_mutex_unlock"], [mutex])

    def _emit_work(self) -> ir.Function:
        """What a worker runs, of its mailbox."""
        work, b = self._function("work", POINTER, POINTER)
        b.call(self._serve, [b.bitcast(work.args[0], WORDS), I64(self._network.spins)])
        b.ret(NOTHING)
        return work

    def _emit_share(self) -> ir.Function:
        """A step of arguments (function, arguments, shares): each thread does every so many of its shares."""
        share, b = self._function("step_0", STEP.return_type, *STEP.args)
        args, thread, threads = share.args
        function, inner, shares = (b.load(b.gep(args, [I64(i)])) for i in range(3))
        count = b.sdiv(b.add(b.sub(shares, thread), b.sub(threads, I64(1))), threads)
        with counted(b, count) as i:
            mine = b.add(thread, b.mul(i, threads))
            b.call(b.inttoptr(function, STEP.as_pointer()), [b.inttoptr(inner, WORDS), mine, shares])
        b.ret_void()
        return share

    def _emit_go(self) -> ir.Function:
        """(context, table, steps): the steps on all threads of the context."""
        go, b = self._function("go", VOID, WORDS, WORDS, I64)
        context, table, steps = go.args
        threads = b.load(self._head(b, context, "threads"))
        counter = self._at(b, context, self._image.counter)
        with b.if_else(b.icmp_signed("==", threads, I64(1))) as (alone, several):
            with alone:
                b.call(self._run_steps, [table, steps, I64(0), I64(1), counter, I64(0)])
            with several:
                boxes = self._at(b, context, self._image.mailboxes)
                b.call(self._together, [boxes, table, steps, threads, counter])
        b.ret_void()
        return go

    # ---- what stands in the header -----------------------------------------------------------------------------------

    def _emit_numbers(self) -> None:
        network = self._network
        given = {
            "abi": ABI,
            "inputs": len(network.inputs),
            "outputs": len(network.outputs),
            "threads": network.threads,
        }
        for name, number in given.items():
            _, b = self._public(name, I32)
            b.ret(I32(number))
        for name, ports in (("input", network.inputs), ("output", network.outputs)):
            sizes = numbers(self.module, f"{name}_sizes", [port.size for port in ports])
            function, b = self._public(f"{name}_size", I64, I32)
            index = function.args[0]
            with b.if_then(b.icmp_unsigned(">=", index, I32(len(ports))), likely=False):
                b.ret(I64(0))
            b.ret(self._element(b, sizes, b.zext(index, I64)))

    def _emit_message(self, texts: Sequence[str]) -> None:
        message, b = self._public("message", POINTER, I32)
        status = message.args[0]
        for i, line in enumerate((*texts, "no status of this library")):
            held = text(self.module, f"message_{i}", line)
            if i < len(texts):
                with b.if_then(b.icmp_signed("==", status, I32(i))):
                    b.ret(held)
            else:
                b.ret(held)

    # ---- contexts ----------------------------------------------------------------------------------------------------

    def _emit_destroy(self) -> ir.Function:
        destroy, b = self._public("destroy", VOID, WORDS)
        context = destroy.args[0]
        with b.if_then(is_null(b, context)):
            b.ret_void()
        with counted(b, b.load(self._head(b, context, "started"))) as i:
            mailbox = b.gep(self._at(b, context, self._image.mailboxes), [b.mul(i, I64(LINE))])
            state = b.atomic_rmw("xchg", mailbox, I64(runner.DISMISSED), "acq_rel")
            with b.if_then(b.icmp_signed("==", state, I64(runner.ASLEEP))):
                self._wake(b, mailbox)
            worker = b.load(b.gep(self._at(b, context, self._image.workers), [i]))
            b.call(self._libc["pthread_join"], [worker, NOTHING])
            mutex, condition = self._lock_of(b, mailbox)
            b.call(self._libc["pthread_mutex_destroy"], [mutex])
            b.call(self._libc["pthread_cond_destroy"], [condition])
        b.call(self._libc["free"], [b.inttoptr(b.load(self._head(b, context, "memory")), POINTER)])
        b.ret_void()
        return destroy

    def _emit_create(self) -> None:
        image = self._image
        create, b = self._public("create", I32, I32, WORDS)
        threads, made = create.args
        self._refuse(b, is_null(b, made), Status.NOTHING_GIVEN)
        b.store(I64(0), made)
        self._refuse(b, b.icmp_signed("==", b.call(self._check, []), I32(0)), Status.PROCESSOR)
        odd = b.or_(b.icmp_signed("<", threads, I32(1)), b.icmp_signed(">", threads, I32(self._network.threads)))
        self._refuse(b, odd, Status.THREADS)
        threads = b.sext(threads, I64)
        size = b.add(b.mul(threads, I64(image.each)), I64(image.arenas + image.once + PAGE))
        memory = b.ptrtoint(b.call(self._libc["calloc"], [I64(1), size]), I64)
        self._refuse(b, b.icmp_unsigned("==", memory, I64(0)), Status.MEMORY)
        start = b.and_(b.add(memory, I64(PAGE - 1)), I64(-PAGE))
        context = b.inttoptr(start, WORDS)
        self._write_words(b, context, start)
        for name, value in (("memory", memory), ("threads", threads)):
            b.store(value, self._head(b, context, name))
        with counted(b, b.sub(threads, I64(1))) as i:
            mailbox = b.gep(self._at(b, context, image.mailboxes), [b.mul(i, I64(LINE))])
            mutex, condition = self._lock_of(b, mailbox)
            b.call(self._libc["pthread_mutex_init"], [mutex, NOTHING])
            b.call(self._libc["pthread_cond_init"], [condition, NOTHING])
            worker = b.bitcast(b.gep(self._at(b, context, image.workers), [i]), POINTER)
            work = b.bitcast(self._work, POINTER)
            failed = b.call(self._libc["pthread_create"], [worker, NOTHING, work, b.bitcast(mailbox, POINTER)])
            with b.if_then(b.icmp_signed("!=", failed, I32(0)), likely=False):
                b.call(self._destroy, [context])
                b.ret(I32(Status.NO_THREADS))
            b.store(b.add(i, I64(1)), self._head(b, context, "started"))
        b.store(start, made)
        b.ret(I32(Status.OK))

    def _write_words(self, b: ir.IRBuilder, context: ir.Value, start: ir.Value) -> None:
        """All words as the image has them."""
        image = self._image
        kinds = numbers(self.module, "kinds", [kind for kind, _ in image.words], BYTE)
        values = numbers(self.module, "values", [value for _, value in image.words])
        data = ir.GlobalVariable(self.module, BYTE, "data")  # defined beside
        steps = [self._share, *(ir.Function(self.module, STEP, f"step_{i + 1}") for i in range(len(image.codes)))]
        table = ir.Constant(ir.ArrayType(STEP.as_pointer(), len(steps)), [one for one in steps])
        functions = constant(self.module, "functions", table)
        bases = b.alloca(I64, len(Kind))
        places = {Kind.DATA: b.ptrtoint(data, I64), Kind.CONTEXT: start, Kind.ARENAS: b.add(start, I64(image.arenas))}
        for kind in Kind:
            b.store(places.get(kind, I64(0)), b.gep(bases, [I64(kind)]))
        with counted(b, I64(len(image.words))) as i:
            kind, value = b.zext(self._element(b, kinds, i), I64), self._element(b, values, i)
            is_function = b.icmp_signed("==", kind, I64(Kind.FUNCTION))
            function = self._element(b, functions, b.select(is_function, value, I64(0)))
            address = b.add(value, b.load(b.gep(bases, [kind])))
            b.store(b.select(is_function, b.ptrtoint(function, I64), address), b.gep(context, [i]))

    # ---- a batch -----------------------------------------------------------------------------------------------------

    def _emit_run(self) -> None:
        """(context, batch, inputs, how many, outputs, how many); inputs and outputs as pairs (address, floats)."""
        network = self._network
        run, b = self._public("run", I32, WORDS, I64, WORDS, I32, WORDS, I32)
        context, batch, inputs, given, outputs, wanted = run.args
        for pointer in (context, inputs, outputs):
            self._refuse(b, is_null(b, pointer), Status.NOTHING_GIVEN)
        for count, ports in ((given, network.inputs), (wanted, network.outputs)):
            self._refuse(b, b.icmp_signed("!=", count, I32(len(ports))), Status.COUNT)
        odd = b.icmp_unsigned("==", batch, I64(0))
        if network.batch is not None:
            odd = b.icmp_unsigned("!=", batch, I64(network.batch))
        self._refuse(b, odd, Status.BATCH)
        ends: dict[tuple[str, int], ir.Value] = {}
        for kind, pairs, ports in (("input", inputs, network.inputs), ("output", outputs, network.outputs)):
            for i, port in enumerate(ports):
                address, size = (b.load(b.gep(pairs, [I64(2 * i + k)])) for k in (0, 1))
                self._refuse(b, b.icmp_unsigned("==", address, I64(0)), Status.NOTHING_GIVEN)
                whole = b.icmp_unsigned("==", b.udiv(size, I64(port.size)), batch)
                rest = b.icmp_unsigned("!=", b.urem(size, I64(port.size)), I64(0))
                self._refuse(b, b.or_(b.not_(whole), rest), Status.SIZE)
                ends[kind, i] = address
        busy = self._head(b, context, "busy")
        taken = b.atomic_rmw("xchg", busy, I64(1), "acq_rel")
        self._refuse(b, b.icmp_signed("!=", taken, I64(0)), Status.BUSY)
        self._emit_passes(b, context, batch, ends)
        b.store_atomic(I64(0), busy, "release", 8)
        b.ret(I32(Status.OK))

    def _emit_passes(
        self, b: ir.IRBuilder, context: ir.Value, batch: ir.Value, ends: dict[tuple[str, int], ir.Value]
    ) -> None:
        network = self._network
        if network.piece is None:
            self._emit_pass(b, context, self._image.passes[0], batch, I64(0), ends)
            return
        piece = I64(network.piece)
        with counted(b, b.udiv(b.add(batch, b.sub(piece, I64(1))), piece)) as i:
            first = b.mul(i, piece)
            left = b.sub(batch, first)
            count = b.select(b.icmp_unsigned("<", left, piece), left, piece)
            for one in self._image.passes:
                self._emit_pass(b, context, one, count, first, ends)

    def _emit_pass(
        self,
        b: ir.IRBuilder,
        context: ir.Value,
        one: PassWords,
        count: ir.Value,
        first: ir.Value,
        ends: dict[tuple[str, int], ir.Value],
    ) -> None:
        """`count` examples from `first` on."""
        b.store(count, self._at(b, context, one.batch))
        for offset, where in (*zip(one.enter, one.reads, strict=True), *zip(one.leave, one.writes, strict=True)):
            b.store(self._address(b, context, where, first, ends), self._at(b, context, offset))
        chunks = b.udiv(b.add(count, I64(one.images - 1)), I64(one.images))
        table, chunk = self._at(b, context, one.table), self._at(b, context, one.chunk)
        if one.by_chunks:
            b.store(I64(0), chunk)
            b.store(chunks, b.gep(chunk, [I64(1)]))
            b.call(self._go, [context, table, I64(one.steps)])
            return
        with counted(b, chunks) as i:
            b.store(i, chunk)
            b.call(self._go, [context, table, I64(one.steps)])

    def _address(
        self,
        b: ir.IRBuilder,
        context: ir.Value,
        where: Where,
        first: ir.Value,
        ends: dict[tuple[str, int], ir.Value],
    ) -> ir.Value:
        """Of a value of example `first`."""
        if where.kind == "buffer":
            return b.add(b.ptrtoint(context, I64), I64(self._image.arenas + self._image.buffers[where.index]))
        ports = self._network.inputs if where.kind == "input" else self._network.outputs
        return b.add(ends[where.kind, where.index], b.mul(first, I64(4 * ports[where.index].size)))
