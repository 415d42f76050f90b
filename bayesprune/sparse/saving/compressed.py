"""Compressed files: a net in the fewest bytes, and where these go."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.layers.variances import carry_variances, variances_of
from bayesprune.sparse.saving.coding import Codebook, Streams, code, codebook_of, longest_text, pack
from bayesprune.sparse.saving.description import check_savable, is_channels_last, net_as_json, unique_tensors
from bayesprune.sparse.saving.limits import beyond
from bayesprune.sparse.saving.manifest import Manifest, TensorEntry
from bayesprune.sparse.saving.storage import DTYPES
from bayesprune.sparse.surgery.composites import shell
from bayesprune.sparse.surgery.surgery import Surgery

__all__ = ["Compressed", "compressed"]


@dataclass(frozen=True)
class Compressed:
    """A compressed file in memory.

    Attributes:
        data: the file, byte by byte.
        unpacked: the bytes of its tensors once it is loaded.
        asks: why :func:`bayesprune.load` will ask for ``net=``, or empty.
        tensors: the bytes of each parameter and buffer by its name in the net, and of the places of a masked weight's
            values under ``name/col``; fractions, for all share one stream.
    """

    data: bytes
    unpacked: int
    asks: str
    tensors: Mapping[str, float]

    @property
    def nbytes(self) -> int:
        """The bytes of the file."""
        return len(self.data)

    @property
    def rest(self) -> float:
        """The bytes of all that is no tensor: the manifest, its checksum, and what the stream's last word wastes."""
        return self.nbytes - sum(self.tensors.values())


def compressed(
    sparse: nn.Module, compress: bool | Codebook = True, *, variances: Mapping[str, Tensor] | None = None
) -> Compressed:
    """The file that ``save(sparse, path, compress=…, variances=…)`` writes, and where its bytes go.

    Raises:
        ValueError: see :func:`bayesprune.save`.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> file = compressed(nn.Linear(100, 100))
    >>> file.nbytes < 8000, sorted(file.tensors)
    (True, ['bias', 'weight'])
    """
    check_savable(sparse)
    codebook = codebook_of(compress)
    if codebook is None:
        raise ValueError("compress=False asks for no compressed file; give True or bp.Codebook(levels=…)")
    carrier = sparse
    if variances is not None:
        carrier = shell(sparse)
        carry_variances(carrier, variances)
    tensors, ties = unique_tensors(sparse)
    layers = {at: m for at, m in sparse.named_modules() if isinstance(m, SparseLinear)}
    coded = code(tensors, layers, codebook, variances_of(carrier))
    entries = {}
    for name, (kind, x) in tensors.items():
        how, block = coded.how[name]
        dtype = str(x.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise ValueError(f"the file holds {', '.join(DTYPES)}; {name!r} is of {dtype}")
        entries[name] = TensorEntry(kind, dtype, tuple(x.shape), how, block, {}, x.requires_grad, is_channels_last(x))
    node, asks = net_as_json(sparse, len(entries) + len(ties))
    text = Manifest(node, asks, entries, ties, Surgery.of(sparse)).text()
    data = pack(Streams(text, coded.exact, coded.numbers))
    if len(text.encode()) > longest_text(len(data)):
        raise ValueError(
            f"the net has {len(tensors):,} tensors, too many for a file of {len(data):,} bytes to tell of: save it "
            "without compress"
        )
    unpacked = sum(entry.nbytes for entry in entries.values())
    return Compressed(data, unpacked, asks or beyond(entries, len(text), len(data)), coded.nbytes)
