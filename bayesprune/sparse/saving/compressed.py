"""Compressed files: a net in the fewest bytes, and where these go."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.layers.variances import carry_variances, variances_of
from bayesprune.sparse.saving.coding import Codebook, Streams, code, codebook_of, longest_text, pack
from bayesprune.sparse.saving.description import check_savable, is_channels_last, manifest_of, unique_tensors
from bayesprune.sparse.saving.manifest import TensorEntry
from bayesprune.sparse.saving.storage import DTYPES
from bayesprune.sparse.surgery.composites import shell

__all__ = ["SLACK", "Compressed", "compressed", "distrust", "most_unpacked"]

_GROWTH, _EXACT_GROWTH = 4096, 4
SLACK = 2**24  # bytes that a file may claim beyond what stands in proportion to it


def most_unpacked(length: int) -> int:
    """The bytes that the tensors of a compressed file of ``length`` may take, where nothing else tells of them."""
    return _GROWTH * length + SLACK


def distrust(tensors: Mapping[str, TensorEntry], length: int, exact: int, own: int = 0) -> str | None:
    """Why a compressed file's tensors are not decoded, in words; None where they are.

    Args:
        tensors: what the file claims.
        length: its bytes.
        exact: those of what it keeps exactly, which deflates to no less than a quarter, or is made up.
        own: the bytes of the net that is known beforehand.
    """
    claimed = sum(entry.nbytes for entry in tensors.values())
    kept = sum(entry.nbytes for entry in tensors.values() if entry.how == "exact")
    if claimed > most_unpacked(length) + own or kept > _EXACT_GROWTH * exact + SLACK + own:
        return f"tensors of {claimed:,} bytes, {kept:,} of them exact, are far more than {length:,} bytes hold"
    return None


@dataclass(frozen=True)
class Compressed:
    """A compressed file in memory.

    Attributes:
        data: the file, byte by byte.
        unpacked: the bytes of its tensors once it is loaded.
        distrusted: why no loader would trust it to be sound, or empty.
        tensors: the bytes of each parameter and buffer by its name in the net, and of the places of a masked weight's
            values under ``name/col``; fractions, for all share one stream.
    """

    data: bytes
    unpacked: int
    distrusted: str
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
    text = manifest_of(sparse, entries, ties, {}).text()
    data = pack(Streams(text, coded.exact, coded.numbers))
    if len(text.encode()) > longest_text(len(data)):
        raise ValueError(
            f"the net has {len(tensors):,} tensors, too many for a file of {len(data):,} bytes to tell of: save it "
            "without compress"
        )
    unpacked, why = sum(entry.nbytes for entry in entries.values()), distrust(entries, len(data), len(coded.exact))
    return Compressed(data, unpacked, why or "", coded.nbytes)
