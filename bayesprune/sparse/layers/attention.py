"""Multi-head attention with its projections as linear layers, so that they can run packed."""

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune.sparse.layers.composite import Composite, blank_linear
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.layers.sizes import full, refit

__all__ = ["SparseAttention"]

_APART = ("q_proj", "k_proj", "v_proj")


def _as_scores(mask: Tensor | None, name: str, dtype: torch.dtype, *shapes: tuple[int, ...]) -> Tensor | None:
    """A mask as what is added to the scores, checked: a bool one is −∞ where it is True."""
    if mask is None:
        return None
    if tuple(mask.shape) not in shapes:
        raise ValueError(f"expected {name} of shape {' or '.join(map(str, shapes))}, got {tuple(mask.shape)}")
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)
    if not mask.is_floating_point():
        raise ValueError(f"expected {name} to be bool or floating-point, got {mask.dtype}")
    return mask


class SparseAttention(Composite):
    """``nn.MultiheadAttention`` that calls its projections, as :func:`bayesprune.sparse.export` puts it into a net.

    Takes and gives what ``nn.MultiheadAttention`` does, batch first or not, but no nested tensors: there is no fast
    path that would pass over the projections. ``in_proj`` works out queries, keys and values in one product; ``split``
    has ``q_proj``, ``k_proj`` and ``v_proj`` in its place, which is quicker where they come from different tensors.
    It can have fewer heads than torch's, see :meth:`keep_heads`.

    Args:
        module: torch's, whose parameters become this one's.
        split: see above; it is always so where torch's has a weight for each.

    >>> attention = nn.MultiheadAttention(8, 2).eval()
    >>> x = torch.linspace(-1, 1, 24).view(3, 1, 8)
    >>> with torch.no_grad():
    ...     bool(torch.allclose(attention(x, x, x)[0], SparseAttention(attention)(x, x, x)[0], atol=1e-6))
    True
    """

    in_proj_bias = None  # read by nn.TransformerEncoderLayer before it would take its fast path

    def __init__(self, module: nn.MultiheadAttention, split: bool = False) -> None:
        super().__init__()
        self.embed_dim, self.kdim, self.vdim = module.embed_dim, module.kdim, module.vdim
        self.num_heads, self.head_dim, self.dropout = module.num_heads, module.head_dim, module.dropout
        self.batch_first, self.add_zero_attn = module.batch_first, module.add_zero_attn
        self._qkv_same_embed_dim = module._qkv_same_embed_dim
        self.split = split or not self._qkv_same_embed_dim
        width, bias = self.embed_dim, module.in_proj_bias is not None
        if self.split:
            self.q_proj = blank_linear(width, width, bias)
            self.k_proj = blank_linear(self.kdim, width, bias)
            self.v_proj = blank_linear(self.vdim, width, bias)
        else:
            self.in_proj = blank_linear(width, 3 * width, bias)
        self.out_proj = blank_linear(width, width, module.out_proj.bias is not None)
        self.bias_k: nn.Parameter | None
        self.bias_v: nn.Parameter | None
        self.register_parameter("bias_k", cast("nn.Parameter | None", module.bias_k))
        self.register_parameter("bias_v", cast("nn.Parameter | None", module.bias_v))
        self.take(module)

    def parts(self, name: str) -> tuple[str, ...]:
        if name.startswith("in_proj_"):
            leaf = name.removeprefix("in_proj_")
            return tuple(f"{layer}.{leaf}" for layer in (_APART if self.split else ("in_proj",)))
        return (name.replace("_proj_weight", "_proj.weight"),)

    @property
    def _full_heads(self) -> int:
        return cast("int", full(self, "num_heads"))

    def keep_heads(self, kept: Sequence[int]) -> None:
        """Remove all heads but ``kept``, in place; what remains computes what it did where the others gave zero.

        The width between the projections is then ``len(kept) * head_dim``. Attention weights that are returned, or
        averaged, are those of the heads that are left, and a mask for each head is for these.

        Args:
            kept: at least one head, counted from 0, each once.

        Raises:
            ValueError: heads that are not there, or projections that are packed already.

        >>> attention = SparseAttention(nn.MultiheadAttention(8, 4))
        >>> attention.keep_heads([0, 2, 3])
        >>> attention
        SparseAttention(
          8, heads=3 of 4, batch_first=False
          (in_proj): Linear(in_features=8, out_features=18, bias=True)
          (out_proj): Linear(in_features=6, out_features=8, bias=True)
        )
        """
        heads = list(kept)
        if not heads or len(set(heads)) < len(heads) or min(heads) < 0 or max(heads) >= self.num_heads:
            raise ValueError(f"expected some of the heads 0 to {self.num_heads - 1}, each once, got {heads}")
        if any(isinstance(layer, SparseLinear) for layer in self.children()):
            raise ValueError("the projections are packed: remove heads before export packs them")
        one = torch.arange(self.num_heads * self.head_dim).view(self.num_heads, self.head_dim)[heads].flatten()
        width = self.num_heads * self.head_dim
        for layer in self._projections():
            rows = torch.cat([one + first for first in range(0, layer.out_features, width)]).to(layer.weight.device)
            refit(layer, {name: x.detach()[rows] for name, x in layer.named_parameters()})
        columns = one.to(self.out_proj.weight.device)
        refit(self.out_proj, {"weight": self.out_proj.weight.detach()[:, columns]})
        biases = {name: x.detach()[..., columns] for name, x in self.named_parameters(recurse=False)}
        refit(self, biases, num_heads=len(heads))

    def check(self) -> None:
        layers, width = self._projections(), self.num_heads * self.head_dim
        widths = [layer.out_features // (3 // len(layers)) for layer in layers]
        if {*widths, self.out_proj.in_features} != {width}:
            raise ValueError(f"{self.num_heads} heads of {self.head_dim} do not go with projections of {widths}")

    def _projections(self) -> tuple[nn.Linear, ...]:
        return (self.q_proj, self.k_proj, self.v_proj) if self.split else (self.in_proj,)

    def skeleton(self) -> nn.MultiheadAttention:
        return nn.MultiheadAttention(
            self.embed_dim,
            self._full_heads,
            self.dropout,
            bias=self.out_proj.bias is not None,
            add_bias_kv=self.bias_k is not None,
            add_zero_attn=self.add_zero_attn,
            kdim=self.kdim,
            vdim=self.vdim,
            batch_first=self.batch_first,
            device="meta",
        )

    @classmethod
    def splits(cls, args: tuple, kwargs: Mapping[str, object]) -> bool:
        names = ("query", "key", "value")
        query, key, value = ({**dict(zip(names, args, strict=False)), **kwargs}[name] for name in names)
        return not (query is key and key is value)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention``: the same arguments, shapes and pair of results.

        Raises:
            ValueError: shapes or dtypes that do not go together, a nested tensor, ``is_causal`` without ``attn_mask``.
        """
        batched = query.dim() == 3
        if query.is_nested or query.dim() not in (2, 3) or not query.dim() == key.dim() == value.dim():
            told = ", ".join("a nested tensor" if x.is_nested else str(tuple(x.shape)) for x in (query, key, value))
            raise ValueError(f"expected query, key and value with 3 dimensions each, or 2 without a batch, got {told}")
        if key.shape[:-1] != value.shape[:-1]:
            raise ValueError(f"key {tuple(key.shape)} and value {tuple(value.shape)} differ in length or batch")
        if is_causal and attn_mask is None:
            raise ValueError("is_causal says that attn_mask is causal: give attn_mask too")
        q, k, v = (self._heads(x, batched) for x in self._project(query, key, value))
        if not batched and key_padding_mask is not None:
            key_padding_mask = key_padding_mask[None]
        is_causal = is_causal and key_padding_mask is None and not need_weights
        sizes = q.shape[0], q.shape[2], k.shape[2]
        mask = self._mask(None if is_causal else attn_mask, key_padding_mask, sizes, query.dtype)
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (
                torch.cat([x, bias.view(1, self.num_heads, 1, -1).expand(x.shape[0], -1, -1, -1)], 2)
                for x, bias in ((k, self.bias_k), (v, self.bias_v))
            )
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        if mask is not None:  # what was added may be attended to
            mask = F.pad(mask, (0, k.shape[2] - sizes[2]))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q / math.sqrt(self.head_dim)) @ k.transpose(-2, -1)
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            y = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)
        if not batched:
            y = y.squeeze(0).transpose(0, 1)
        else:
            y = y.transpose(1, 2) if self.batch_first else y.permute(2, 0, 1, 3)
        return self.out_proj(y.flatten(-2)), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.split:
            return self.q_proj(query), self.k_proj(key), self.v_proj(value)
        of_query = self.in_proj(query).chunk(3, -1)
        of_key = of_query if key is query else self.in_proj(key).chunk(3, -1)
        of_value = of_key if value is key else self.in_proj(value).chunk(3, -1)
        return of_query[0], of_key[1], of_value[2]

    def _heads(self, x: Tensor, batched: bool) -> Tensor:
        """``(batch, heads, length, head_dim)`` of a projection in the layout of what came in."""
        x = x.unflatten(-1, (self.num_heads, self.head_dim))
        if not batched:
            return x.transpose(0, 1)[None]
        return x.transpose(1, 2) if self.batch_first else x.permute(1, 2, 0, 3)

    def _mask(
        self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, sizes: tuple[int, int, int], dtype: torch.dtype
    ) -> Tensor | None:
        """Both masks as one to add to the scores ``(batch, heads, queries, keys)``, of sides that spread."""
        batch, queries, keys = sizes
        each = (batch * self.num_heads, queries, keys)
        heads = self._full_heads
        if attn_mask is not None and heads > self.num_heads and tuple(attn_mask.shape) == (batch * heads, *each[1:]):
            raise ValueError(
                f"attn_mask {tuple(attn_mask.shape)} has a mask for each of {heads} heads, of which "
                f"{self.num_heads} are left: expected {(queries, keys)} for all of them, or {each}"
            )
        scores = _as_scores(attn_mask, "attn_mask", dtype, (queries, keys), each)
        if scores is not None:
            scores = scores[None, None] if scores.dim() == 2 else scores.view(batch, -1, queries, keys)
        padding = _as_scores(key_padding_mask, "key_padding_mask", dtype, (batch, keys))
        if padding is None:
            return scores
        return padding[:, None, None] if scores is None else scores + padding[:, None, None]

    def extra_repr(self) -> str:
        fewer = f" of {self._full_heads}" if self._full_heads > self.num_heads else ""
        heads = f"{self.num_heads}{fewer}"
        return f"{self.embed_dim}, heads={heads}, batch_first={self.batch_first}"
