"""Kernels that multiply by a packed weight: one file and one line of the table each."""

from collections.abc import Mapping
from types import MappingProxyType

from bayesprune.sparse.kernels.base import Kernel
from bayesprune.sparse.kernels.cusparselt import CuSparseLt
from bayesprune.sparse.kernels.embedding_bag import EmbeddingBag
from bayesprune.sparse.kernels.gather import Gather
from bayesprune.sparse.kernels.native import Native
from bayesprune.sparse.kernels.reference import Reference
from bayesprune.sparse.kernels.torch_bsr import TorchBSR
from bayesprune.sparse.kernels.torch_sparse import TorchSparse
from bayesprune.sparse.kernels.triton import Triton

__all__ = ["KERNELS", "Kernel"]

KERNELS: Mapping[str, Kernel] = MappingProxyType(
    {
        kernel.name: kernel
        for kernel in (
            *(Reference(), TorchSparse(), EmbeddingBag(), Gather(), Native()),
            *(Triton(), TorchBSR(), CuSparseLt()),
        )
    }
)
