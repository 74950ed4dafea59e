"""The library as an operator of ONNX Runtime: what `SessionOptions.register_custom_ops_library` looks for, emitted.

ONNX Runtime hands over its functions as a table, and takes the operator's as another; both are numbered, and are only
ever appended to (https://onnxruntime.ai/docs/reference/operators/add-custom-op.html). Used are those of version 16, of
September 2023. Nothing of ONNX Runtime is linked: where it is not, these functions are never called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from llvmlite import ir

from tombola.deploy.c.emit import NOTHING, POINTER, VOID, WORDS, constant, declared, is_null, started, text
from tombola.deploy.c.image import LOCK_WORDS, WORD
from tombola.deploy.c.passes import Passes, Port
from tombola.deploy.jit.native import I32, I64

ENTRY = "RegisterCustomOps"
"""The name that ONNX Runtime looks for."""
THREADS = "threads"
"""The operator's attribute: threads of its context."""
_VERSION = 16
_FAILED, _INVALID, _FLOAT = 1, 2, 1  # of OrtErrorCode and ONNXTensorElementDataType
_API = {
    "CreateStatus": 0, "CreateCustomOpDomain": 26, "CustomOpDomain_Add": 27, "AddCustomOpDomain": 28,
    "GetTensorMutableData": 51, "GetDimensionsCount": 61, "GetDimensions": 62, "GetTensorTypeAndShape": 65,
    "KernelInfoGetAttribute_int64": 86, "KernelContext_GetInput": 90, "KernelContext_GetOutput": 91,
    "ReleaseTensorTypeAndShapeInfo": 99,
}  # fmt: skip
"""Places in the table of functions, OrtApi."""
_WORDS_OF_AN_OPERATOR = 32  # more than OrtCustomOp of this version has


def ort_operators(regions: Mapping[str, Passes], domain: str) -> ir.Module:
    """The module; what it calls of the libraries, by the names that theirs begin with, is declared.

    An operator has the name of its library.
    """
    module = ir.Module("operators")
    libc = declared(module)
    api = ir.GlobalVariable(module, WORDS, "api")
    api.linkage, api.initializer = "internal", ir.Constant(WORDS, None)
    operators = [_Operator(module, api, libc, name, region).table for name, region in regions.items()]
    _emit_entry(_Calls(module, api, "entry"), operators, domain)
    return module


class _Calls:
    """Calls of ONNX Runtime's functions, and texts for them."""

    def __init__(self, module: ir.Module, api: ir.GlobalVariable, name: str) -> None:
        self.module, self.api, self.name = module, api, name
        self._texts = 0

    def text(self, content: str) -> ir.Constant:
        """Its address."""
        self._texts += 1
        return text(self.module, f"{self.name}.text_{self._texts}", content)

    def call(self, b: ir.IRBuilder, name: str, *args: ir.Value, result: ir.Type = POINTER) -> ir.Value:
        """A function of ONNX Runtime; most give a status, null if all is well."""
        kind = ir.FunctionType(result, [arg.type for arg in args])
        function = b.inttoptr(b.load(b.gep(b.load(self.api), [I64(_API[name])])), kind.as_pointer())
        return b.call(function, args)

    def attempt(self, b: ir.IRBuilder, name: str, *args: ir.Value, after: Callable[[], object] = lambda: None) -> None:
        """The same; the function under construction gives its status back, if it is none of success."""
        status = self.call(b, name, *args)
        with b.if_then(b.not_(is_null(b, status)), likely=False):
            after()
            b.ret(status)

    def fail(self, b: ir.IRBuilder, code: int, message: ir.Value) -> None:
        """The function under construction gives a status of its own."""
        b.ret(self.call(b, "CreateStatus", I32(code), message))


def _emit_entry(calls: _Calls, operators: Sequence[ir.GlobalVariable], domain: str) -> None:
    entry, b = started(calls.module, ENTRY, POINTER, POINTER, WORDS)
    options, base = entry.args
    get = b.inttoptr(b.load(base), ir.FunctionType(WORDS, [I32]).as_pointer())
    api = b.call(get, [I32(_VERSION)])
    with b.if_then(is_null(b, api), likely=False):  # older: the operators stay unknown, which it will say
        b.ret(NOTHING)
    b.store(api, calls.api)
    held = b.alloca(POINTER)
    calls.attempt(b, "CreateCustomOpDomain", calls.text(domain), held)
    for operator in operators:
        calls.attempt(b, "CustomOpDomain_Add", b.load(held), b.bitcast(operator, POINTER))
    calls.attempt(b, "AddCustomOpDomain", options, b.load(held))
    b.ret(NOTHING)


class _Operator:
    """A kernel is a mutex and a context: ONNX Runtime may run a session from several threads, which take turns.

    `table`: what ONNX Runtime calls OrtCustomOp.
    """

    def __init__(
        self, module: ir.Module, api: ir.GlobalVariable, libc: Mapping[str, ir.Function], name: str, network: Passes
    ) -> None:
        self.module = module
        self._network, self._name, self._libc = network, name, libc
        self._calls = _Calls(module, api, name)
        own = {
            "create": ir.FunctionType(I32, [I32, WORDS]),
            "run": ir.FunctionType(I32, [WORDS, I64, WORDS, I32, WORDS, I32]),
            "destroy": ir.FunctionType(VOID, [WORDS]),
            "message": ir.FunctionType(POINTER, [I32]),
        }
        self._own = {what: ir.Function(self.module, kind, f"{name}_{what}") for what, kind in own.items()}
        self.table = self._operator()

    def _operator(self) -> ir.GlobalVariable:
        network = self._network
        functions: dict[int, ir.Function] = {
            2: self._gives("GetName", self._calls.text(self._name), POINTER),
            3: self._gives("GetExecutionProviderType", NOTHING, POINTER),
            4: self._gives("GetInputType", I32(_FLOAT), POINTER, I64),
            5: self._gives("GetInputTypeCount", I64(len(network.inputs)), POINTER),
            6: self._gives("GetOutputType", I32(_FLOAT), POINTER, I64),
            7: self._gives("GetOutputTypeCount", I64(len(network.outputs)), POINTER),
            9: self._emit_destroy(),
            10: self._gives("GetInputCharacteristic", I32(0), POINTER, I64),
            11: self._gives("GetOutputCharacteristic", I32(0), POINTER, I64),
            12: self._gives("GetInputMemoryType", I32(0), POINTER, I64),
            17: self._emit_create(),
            18: self._emit_compute(),
        }
        words = [functions[i].bitcast(POINTER) if i in functions else NOTHING for i in range(1, _WORDS_OF_AN_OPERATOR)]
        kind = ir.LiteralStructType([I64, *[POINTER] * len(words)])
        return constant(self.module, f"{self._name}.operator", ir.Constant(kind, [I64(_VERSION), *words]))

    def _started(self, name: str, result: ir.Type, *arguments: ir.Type) -> tuple[ir.Function, ir.IRBuilder]:
        return started(self.module, f"{self._name}.{name}", result, *arguments)

    def _gives(self, name: str, value: ir.Constant, *arguments: ir.Type) -> ir.Function:
        function, b = self._started(name, value.type, *arguments)
        b.ret(value)
        return function

    # ---- kernels -----------------------------------------------------------------------------------------------------

    @staticmethod
    def _context(b: ir.IRBuilder, kernel: ir.Value) -> ir.Value:
        """The word of a kernel that holds its context, after its mutex."""
        return b.gep(b.bitcast(kernel, WORDS), [I64(LOCK_WORDS)])

    def _emit_create(self) -> ir.Function:
        create, b = self._started("CreateKernelV2", POINTER, POINTER, POINTER, POINTER, WORDS)
        _, _, info, made = create.args
        threads = b.alloca(I64)
        self._calls.attempt(b, "KernelInfoGetAttribute_int64", info, self._calls.text(THREADS), threads)
        kernel = b.call(self._libc["calloc"], [I64(LOCK_WORDS + 1), I64(WORD)])
        with b.if_then(is_null(b, kernel), likely=False):
            self._calls.fail(b, _FAILED, self._calls.text("not enough memory"))
        context = self._context(b, kernel)
        status = b.call(self._own["create"], [b.trunc(b.load(threads), I32), context])
        with b.if_then(b.icmp_signed("!=", status, I32(0)), likely=False):
            b.call(self._libc["free"], [kernel])
            self._calls.fail(b, _FAILED, b.call(self._own["message"], [status]))
        b.call(self._libc["pthread_mutex_init"], [kernel, NOTHING])
        b.store(b.ptrtoint(kernel, I64), made)
        b.ret(NOTHING)
        return create

    def _emit_destroy(self) -> ir.Function:
        destroy, b = self._started("KernelDestroy", VOID, POINTER)
        (kernel,) = destroy.args
        b.call(self._own["destroy"], [b.inttoptr(b.load(self._context(b, kernel)), WORDS)])
        b.call(self._libc["pthread_mutex_destroy"], [kernel])
        b.call(self._libc["free"], [kernel])
        b.ret_void()
        return destroy

    def _emit_compute(self) -> ir.Function:
        network = self._network
        compute, b = self._started("KernelComputeV2", POINTER, POINTER, POINTER)
        kernel, call = compute.args
        value, data = b.alloca(POINTER), b.alloca(POINTER)
        inputs, outputs = (b.alloca(I64, 2 * len(ports)) for ports in (network.inputs, network.outputs))
        batches = []
        for i, port in enumerate(network.inputs):
            self._calls.attempt(b, "KernelContext_GetInput", call, I64(i), value)
            batches.append(self._batch(b, b.load(value), port))
            self._calls.attempt(b, "GetTensorMutableData", b.load(value), data)
            self._pair(b, inputs, i, b.load(data), b.mul(batches[-1], I64(port.size)))
        batch = batches[0]
        for other in batches[1:]:
            with b.if_then(b.icmp_signed("!=", other, batch), likely=False):
                self._calls.fail(b, _INVALID, self._calls.text("the inputs' batches differ"))
        for i, port in enumerate(network.outputs):
            axes = b.alloca(I64, 1 + len(port.shape))
            for k, size in enumerate((batch, *map(I64, port.shape))):
                b.store(size, b.gep(axes, [I64(k)]))
            self._calls.attempt(b, "KernelContext_GetOutput", call, I64(i), axes, I64(1 + len(port.shape)), value)
            self._calls.attempt(b, "GetTensorMutableData", b.load(value), data)
            self._pair(b, outputs, i, b.load(data), b.mul(batch, I64(port.size)))
        with b.if_then(b.icmp_signed("==", batch, I64(0)), likely=False):
            b.ret(NOTHING)
        b.call(self._libc["pthread_mutex_lock"], [kernel])
        context = b.inttoptr(b.load(self._context(b, kernel)), WORDS)
        ends = (inputs, I32(len(network.inputs)), outputs, I32(len(network.outputs)))
        status = b.call(self._own["run"], [context, batch, *ends])
        b.call(self._libc["pthread_mutex_unlock"], [kernel])
        with b.if_then(b.icmp_signed("!=", status, I32(0)), likely=False):
            self._calls.fail(b, _FAILED, b.call(self._own["message"], [status]))
        b.ret(NOTHING)
        return compute

    @staticmethod
    def _pair(b: ir.IRBuilder, pairs: ir.Value, index: int, address: ir.Value, size: ir.Value) -> None:
        b.store(b.ptrtoint(address, I64), b.gep(pairs, [I64(2 * index)]))
        b.store(size, b.gep(pairs, [I64(2 * index + 1)]))

    def _batch(self, b: ir.IRBuilder, tensor: ir.Value, port: Port) -> ir.Value:
        """The batch of an input; the function under construction fails where its other axes are not the network's."""
        info, rank = b.alloca(POINTER), b.alloca(I64)
        wanted = (None, *port.shape)
        axes = b.alloca(I64, len(wanted))
        self._calls.attempt(b, "GetTensorTypeAndShape", tensor, info)
        held = b.load(info)

        def release() -> None:
            self._calls.call(b, "ReleaseTensorTypeAndShapeInfo", held, result=VOID)

        shape = ", ".join(("batch", *map(str, port.shape)))
        message = self._calls.text(f"an input is not of shape ({shape})")

        def refuse(odd: ir.Value) -> None:
            with b.if_then(odd, likely=False):
                release()
                self._calls.fail(b, _INVALID, message)

        self._calls.attempt(b, "GetDimensionsCount", held, rank, after=release)
        refuse(b.icmp_signed("!=", b.load(rank), I64(len(wanted))))
        self._calls.attempt(b, "GetDimensions", held, axes, I64(len(wanted)), after=release)
        for k, size in enumerate(port.shape):
            refuse(b.icmp_signed("!=", b.load(b.gep(axes, [I64(1 + k)])), I64(size)))
        release()
        return b.load(axes)
