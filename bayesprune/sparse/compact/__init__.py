"""Compaction: a physically smaller net where masks empty whole channels, hidden units or heads.

The net is followed on ``torch.export``'s graph of ATen operators (non-strict, in eval mode, ``nn.MultiheadAttention``
opened into its layers). Each entry of each tensor on the way is labelled with an *atom*: the channel of the result that
it belongs to, with its value where that is a constant. Operators that move entries are run on the labels themselves, so
that views, permutations and concatenations are followed exactly; operators that work entry by entry tie the atoms that
meet; weights read atoms and make others; what counts on all channels (LayerNorm, GroupNorm, softmax over channels, the
net's output) pins them. The largest set of atoms that can go is then a fixpoint: constant or not read, tied ones
together, every tensor still a full box. The graph serves the analysis alone: what comes out is the user's own module
with smaller tensors, checked against the masked net on the example.

Limits: control flow and sizes that depend on data are refused with the module named. An operator that is not known
keeps the channels that meet it. Sizes that a forward holds in integers of its module or has written in are found when
the result is run: the integers are set anew, and what is written in stays, beginning with the module that raises.
Weights that are shared between modules or computed (parametrizations) stay, and what hooks see; so do the channels of
recurrent layers, of attention without heads, of transposed convolutions in groups, and of constants that meet the zero
padding of depthwise convolutions.
"""

from bayesprune._extras import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
