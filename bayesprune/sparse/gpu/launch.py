"""Launch of Triton kernels: compiled once per specialisation, then called past Triton's own bookkeeping.

Triton's ``kernel[grid](...)`` classifies each argument at each call to find the compiled kernel. Here the classes of
all arguments are one tuple, looked up once, and the compiled kernel's launcher is called with addresses.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bayesprune.sparse.activations import ACTIVATIONS, in_triton
from bayesprune.sparse.formats import Operands
from bayesprune.sparse.gpu.devices import interpreted
from bayesprune.sparse.gpu.epilogue import finish
from bayesprune.sparse.gpu.few import few_product
from bayesprune.sparse.gpu.linear import product, turn
from bayesprune.sparse.gpu.tuning import Config, Problem, choose, power

__all__ = ["Call", "Launch", "linear", "precision_of"]

_ALIGNED = 16  # bytes, and divisibility of numbers, that Triton makes better code for
_FINISHED = 1024  # results that a program of the second kernel adds up
_TURNED = 64  # side of the squares in which x is laid anew
_FARTHEST = 2**31 - 1  # a stride is an int32 argument


def precision_of(dtype: torch.dtype) -> str:
    """``"tf32"`` for float32 where torch lets its products round their factors to that."""
    allowed = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if allowed else "ieee"


class Launch:
    """A jitted kernel for arguments of one class: same dtypes, same numbers that are 1 or multiples of 16.

    The first call goes through Triton, which compiles; later ones straight to the driver, but for tensors that do not
    lie on 16 bytes, which Triton has other code for.
    """

    def __init__(self, kernel: Any, constants: dict[str, Any], warps: int = 4, stages: int = 1) -> None:
        self.kernel, self.constants = kernel, constants
        self.options = {"num_warps": warps, "num_stages": stages}
        self._compiled: Any = None
        self._tail = tuple(constants.values())

    def __call__(self, programs: int, tensors: tuple[Tensor | None, ...], numbers: tuple[int, ...]) -> None:
        """Run ``programs`` programs on the current stream of the current device, which is the tensors'."""
        addresses, together = [], 0
        for tensor in tensors:
            address = None if tensor is None else tensor.data_ptr()
            together |= address or 0
            addresses.append(address)
        made = self._compiled
        if made is None or together % _ALIGNED:
            made = self.kernel[(programs,)](*tensors, *numbers, **self.constants, **self.options)
            if not together % _ALIGNED:
                self._compiled = made  # None in the interpreter
            return
        # as Triton itself asks: torch.cuda.current_stream makes an object at each call
        stream = torch._C._cuda_getCurrentRawStream(tensors[0].get_device())  # type: ignore[union-attr]
        plain = None, None, None  # no metadata and no hooks of Triton's profiler
        made.run(
            *(programs, 1, 1, stream, made.function, made.packed_metadata, *plain), *addresses, *numbers, *self._tail
        )


class Call:
    """A product with its configuration: one launch, or up to three. ``precision`` is that of factors in float32."""

    def __init__(self, config: Config, x: Tensor, weight: Operands, precision: str = "ieee") -> None:
        inputs, ending = weight.shape[1], in_triton(ACTIVATIONS[weight.activation])
        _, w, h = weight.values.shape
        self.config, self._h = config, h
        kernel = few_product if config.few else product
        constants = {
            "H": h,
            "W": w,
            "WIDE": power(h),
            "TILE": config.tile,
            "STEP": config.step,
            "SPLIT": config.split,
            "EVEN": inputs % w == 0,
            "ACTIVATION": None if config.split > 1 else ending,
            "PRECISION": precision,
            "UPCAST": interpreted(),
        }
        self.product = Launch(kernel, constants, config.warps, config.stages)
        self.finish = Launch(finish, {"SPLIT": config.split, "SIZE": _FINISHED, "ACTIVATION": ending})
        self.turn = Launch(turn, {"TILE": _TURNED})

    def __call__(self, x: Tensor, weight: Operands) -> Tensor:
        """``activation(x @ weight.T * scale + bias)`` for x ``(tokens, inputs)``."""
        values, crow, col, bias, scale, (outputs, inputs), *_ = weight
        config, tokens = self.config, x.shape[0]
        y = x.new_empty(tokens, outputs)
        readable, strides = tokens, x.stride()
        if config.turned and strides[0] != 1:
            padded = -(-tokens // _ALIGNED) * _ALIGNED
            turned = x.new_empty(inputs, padded)
            squares = -(-tokens // _TURNED) * -(-inputs // _TURNED)
            self.turn(squares, (x, turned), (tokens, inputs, *strides, padded))
            x, readable, strides = turned, padded, (1, padded)
        rows = -(-outputs // self._h)
        programs = rows * config.split * -(-tokens // config.tile)
        numbers = (tokens, readable, inputs, outputs, rows, *strides)
        if config.split == 1:
            self.product(programs, (x, values, crow, col, bias, scale, y), numbers)
            return y
        partial = x.new_empty(config.split, tokens, outputs, dtype=torch.float32)
        self.product(programs, (x, values, crow, col, None, None, partial), numbers)
        self.finish(-(-tokens * outputs // _FINISHED), (partial, bias, scale, y), (tokens, outputs))
        return y


_calls: dict[tuple[object, ...], Call] = {}


def _run(x: Tensor, weight: Operands) -> Tensor:
    values, _, _, bias, scale, shape, activation, _ = weight
    nnz, w, h = values.shape
    tokens, device = x.shape[0], x.get_device()
    across, along = x.stride()
    key = (
        *(device, x.dtype, values.dtype, w, h, shape, activation, (tokens - 1).bit_length(), nnz.bit_length()),
        tokens % _ALIGNED == 0,
        *(None if bias is None else bias.dtype, None if scale is None else scale.dtype),
        *(across == 1, across % _ALIGNED == 0, along == 1, along % _ALIGNED == 0),
        precision := precision_of(x.dtype),
    )
    call = _calls.get(key)
    if call is not None:
        return call(x, weight)
    cores = x.dtype != torch.float32 or precision == "tf32"
    kinds, aligned = (values.dtype, x.dtype), across == 1 or across % _ALIGNED == 0
    problem = Problem.of(values.shape, kinds, cores, -(-shape[0] // h), tokens, x.device, aligned)
    config, settled = choose(problem, x.device, lambda c: partial(Call(c, x, weight, precision), x, weight))
    call = Call(config, x, weight, precision)
    if settled:
        _calls[key] = call
    return call(x, weight)


def linear(x: Tensor, weight: Operands) -> Tensor:
    """``activation(x @ weight.T * scale + bias)`` for x ``(tokens, inputs)``, which may be strided, and a BSR weight.

    No copy goes to the host and nothing waits for the device: a CUDA graph can capture it, once it ran before.
    """
    values, crow, col, bias, scale, *_ = weight
    strides = x.stride()
    if 1 not in strides or max(strides) > _FARTHEST:
        x = x.contiguous()
    bias = None if bias is None else bias.contiguous()
    scale = None if scale is None else scale.contiguous()
    values, crow, col = values.contiguous(), crow.contiguous(), col.contiguous()
    weight = Operands(values, crow, col, bias, scale, weight.shape, weight.activation, weight.format)
    if x.is_cuda and x.get_device() != torch.cuda.current_device():
        with torch.cuda.device(x.device):
            return _run(x, weight)
    return _run(x, weight)
