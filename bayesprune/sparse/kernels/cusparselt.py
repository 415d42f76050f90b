"""2:4 products on a GPU's sparse tensor cores by cuSPARSELt, through torch's private ``torch._cslt_…``."""

from functools import cache
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from bayesprune.sparse.formats import Operands, Packed
from bayesprune.sparse.kernels.base import Kernel, weight_in

__all__ = ["CuSparseLt"]

_DTYPES = (torch.float16, torch.bfloat16)
_SIDE = 16  # that both sides of the weight are multiples of, in two bytes
_TOKENS = 8  # likewise


@cache
def _available(device: torch.device) -> bool:
    there = torch.version.hip is None and torch.backends.cusparselt.is_available()
    return there and torch.cuda.get_device_capability(device) >= (8, 0)


class _Compressed:
    """Weights as cuSPARSELt wants them, as long as the values live and are not written to."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[torch.UntypedStorage, tuple[tuple[object, ...], Tensor]] = WeakKeyDictionary()

    def of(self, weight: Operands) -> Tensor:
        values, col, shape = weight.values, weight.col, weight.shape
        storage, tracked = values.untyped_storage(), not (values.is_inference() or col.is_inference())
        versions = (values._version, col._version) if tracked else ()
        state = (values.storage_offset(), values.dtype, shape, col.data_ptr(), *versions)
        found = self._kept.get(storage) if tracked else None
        if found is not None and found[0] == state:
            return found[1]
        compressed = torch._cslt_compress(weight_in(values.dtype, weight).detach())
        if tracked and not torch.cuda.is_current_stream_capturing():  # what a graph makes is its own
            torch.cuda.current_stream(values.device).synchronize()  # another stream may read it next
            self._kept[storage] = state, compressed
        return compressed


class CuSparseLt(Kernel):
    """Semi-structured weights in float16 or bfloat16 with sides that 16 divides, on a CUDA GPU of capability 8.0 on.

    cuSPARSELt has a layout of its own: it is made when the values are first met and again when they were written to,
    and takes another 9/16 of the dense weight's bytes. A write through ``.data`` is not seen. Tokens are padded to 8.
    """

    name = "cusparselt"

    def __init__(self) -> None:
        self._compressed = _Compressed()

    def supports(self, weight: Packed) -> bool:
        values, shape = weight.values, weight.shape
        if weight.format.of_inputs != (2, 4) or not values.is_cuda or values.dtype not in _DTYPES or not values.numel():
            return False
        return not shape[0] % _SIDE and not shape[1] % _SIDE and _available(values.device)

    def why_not(self, weight: Packed) -> str:
        return "it multiplies by 2:4 in two bytes, of sides that 16 divides, on a CUDA GPU that has cuSPARSELt"

    def run(self, x: Tensor, weight: Operands) -> Tensor:
        tokens, padding = x.shape[0], -x.shape[0] % _TOKENS
        x = F.pad(x, (0, 0, 0, padding)) if padding else x.contiguous()
        compressed = self._compressed.of(weight)
        y = torch._cslt_sparse_mm(compressed, x.T, bias=weight.bias, transpose_result=True)
        return y[:tokens]
