"""Compile a launch of ours for a GPU that is not there."""

from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bayesprune.sparse.gpu.launch import Launch

__all__ = ["MEMORY", "compiled"]

MEMORY = {80: 163 * 1024, 90: 227 * 1024}  # bytes of shared memory that a program may have
_NAMES = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.int8: "*i8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def compiled(launch: Launch, tensors: tuple[Tensor | None, ...], numbers: tuple[int, ...], arch: int) -> Any:
    """What Triton makes of a call for compute capability ``arch`` / 10: its classes of arguments are the call's."""
    kernel = launch.kernel
    arguments = dict(zip(kernel.arg_names, (*tensors, *numbers), strict=False)) | launch.constants
    signature: dict[str, str] = {}
    constants, attributes = {}, {}
    for at, (name, value) in enumerate(arguments.items()):
        if isinstance(value, Tensor):
            signature[name] = _NAMES[value.dtype]
        elif name in launch.constants or value is None or value == 1:
            signature[name], constants[at,] = "constexpr", value
            continue
        else:
            signature[name] = "i32"
        if isinstance(value, Tensor) or (value % 16 == 0 and not kernel.params[at].do_not_specialize):
            attributes[at,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=launch.options)
