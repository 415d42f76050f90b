"""RNN, LSTM and GRU with their products as linear layers, so that they can run packed."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from bayesprune.sparse.layers.composite import Composite, blank_linear

__all__ = ["SparseRNN"]

State = tuple[Tensor, ...]  # h, and c of an LSTM, each (batch, features)
Step = Callable[[Tensor, State], State]


class SparseRNN(Composite):
    """``nn.RNN``, ``nn.GRU`` or ``nn.LSTM`` that calls its products, as :func:`bayesprune.sparse.export` makes it.

    Takes and gives what torch's does: batch first or not, without a batch, packed sequences, any number of layers and
    directions, projections, dropout between layers. ``weight_ih_l0`` is that of the layer ``ih_l0``, which sees the
    whole sequence at once; ``hh_l0`` sees one step, and so does ``hr_l0``.

    Args:
        module: torch's, whose parameters become this one's.
        split: has no meaning here.

    >>> rnn = nn.GRU(4, 3, bidirectional=True)
    >>> x = torch.linspace(-1, 1, 24).view(3, 2, 4)
    >>> bool(torch.allclose(rnn(x)[0], SparseRNN(rnn)(x)[0], atol=1e-6))
    True
    """

    def __init__(self, module: nn.RNNBase, split: bool = False) -> None:
        super().__init__()
        self.split = False
        self.mode, self.bias, self.batch_first = module.mode, module.bias, module.batch_first
        self.input_size, self.hidden_size, self.proj_size = module.input_size, module.hidden_size, module.proj_size
        self.num_layers, self.bidirectional, self.dropout = module.num_layers, module.bidirectional, module.dropout
        for name, weight in module.named_parameters():
            if name.startswith("weight_"):
                layer = name.removeprefix("weight_")
                out, into = weight.shape
                self.add_module(layer, blank_linear(into, out, self.bias and not layer.startswith("hr")))
        self.take(module)

    def parts(self, name: str) -> tuple[str, ...]:
        leaf, _, layer = name.partition("_")
        return (f"{layer}.{leaf}",)

    def skeleton(self) -> nn.RNNBase:
        sizes = (self.input_size, self.hidden_size, self.num_layers)
        same = {name: getattr(self, name) for name in ("bias", "batch_first", "dropout", "bidirectional")}
        if self.mode == "LSTM":
            return nn.LSTM(*sizes, proj_size=self.proj_size, **same, device="meta")
        if self.mode == "GRU":
            return nn.GRU(*sizes, **same, device="meta")
        return nn.RNN(*sizes, nonlinearity=self.mode.removeprefix("RNN_").lower(), **same, device="meta")

    def flatten_parameters(self) -> None:
        """Nothing: nets call it on torch's, for the sake of cuDNN."""

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor | tuple[Tensor, ...]]:
        """As torch's: ``(output, h)``, or ``(output, (h, c))`` of an LSTM, in the shapes of ``nn.LSTM``.

        Raises:
            ValueError: an input or a state of another shape.
        """
        given: State | None = (hx,) if isinstance(hx, Tensor) else hx
        if isinstance(input, PackedSequence):
            states = self._states(given, int(input.batch_sizes[0]), input.data, input.sorted_indices)
            data, states = self._run(input.data, input.batch_sizes.tolist(), states)
            if input.unsorted_indices is not None:
                states = tuple(state.index_select(1, input.unsorted_indices) for state in states)
            packed = PackedSequence(data, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
            return packed, states if self.mode == "LSTM" else states[0]
        if input.dim() not in (2, 3):
            raise ValueError(f"expected an input with 3 dimensions, or 2 without a batch, got {tuple(input.shape)}")
        batched = input.dim() == 3
        x = input[:, None] if not batched else input.transpose(0, 1) if self.batch_first else input
        length, batch = x.shape[:2]
        if not batched and given is not None:
            given = tuple(state[:, None] for state in given)
        states = self._states(given, batch, x, None)
        data, states = self._run(x.reshape(length * batch, x.shape[-1]), [batch] * length, states)
        y = data.view(length, batch, data.shape[-1])
        if not batched:
            y, states = y[:, 0], tuple(state[:, 0] for state in states)
        elif self.batch_first:
            y = y.transpose(0, 1)
        return y, states if self.mode == "LSTM" else states[0]

    def _states(self, given: State | None, batch: int, like: Tensor, order: Tensor | None) -> State:
        """h, and c of an LSTM, for all layers and directions, in the order of the batch: zeros where none is given."""
        count = self.num_layers * (1 + self.bidirectional)
        widths = (self.proj_size or self.hidden_size, self.hidden_size)[: 1 + (self.mode == "LSTM")]
        shapes = [(count, batch, width) for width in widths]
        if given is None:
            return tuple(like.new_zeros(shape) for shape in shapes)
        if [tuple(state.shape) for state in given] != shapes:
            wanted, told = (", ".join(map(str, s)) for s in (shapes, [tuple(state.shape) for state in given]))
            raise ValueError(f"expected a state of shape {wanted}, batch first or not, got {told}")
        return given if order is None else tuple(state.index_select(1, order) for state in given)

    def _run(self, x: Tensor, sizes: list[int], states: State) -> tuple[Tensor, State]:
        """All layers over the rows of all steps, ``sizes[t]`` of step t, none more than of the step before."""
        if x.shape[-1] != self.input_size or not sizes:
            got = f"{len(sizes)} of {x.shape[-1]}"
            raise ValueError(f"expected one step or more of {self.input_size} features, got {got}")
        directions = ("", "_reverse")[: 1 + self.bidirectional]
        last: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for reverse, suffix in enumerate(directions):
                state = tuple(s[len(last)] for s in states)
                y, state = self._walk(f"_l{layer}{suffix}", x, sizes, state, bool(reverse))
                outputs.append(y)
                last.append(state)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
            if layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(torch.stack(parts) for parts in zip(*last, strict=True))

    def _walk(self, layer: str, x: Tensor, sizes: list[int], state: State, reverse: bool) -> tuple[Tensor, State]:
        """One layer in one direction: its outputs, row by row as x, and its last state."""
        gates = getattr(self, f"ih{layer}")(x).split(sizes)
        step = self._step(layer)
        outputs: list[Tensor] = [x] * len(sizes)
        for t in reversed(range(len(sizes))) if reverse else range(len(sizes)):
            now, batch = sizes[t], state[0].shape[0]
            if now == batch:
                state = step(gates[t], state)
                outputs[t] = state[0]
                continue
            moved = step(gates[t], tuple(s[:now] for s in state))  # the rest has ended, or has not begun
            outputs[t] = moved[0]
            state = tuple(torch.cat([new, s[now:]]) for new, s in zip(moved, state, strict=True))
        return torch.cat(outputs), state

    def _step(self, layer: str) -> Step:
        """One step: from the input's part of the gates and the state to the next state."""
        hh = getattr(self, f"hh{layer}")
        if self.mode == "LSTM":
            hr = getattr(self, f"hr{layer}", None)

            def lstm(gates: Tensor, state: State) -> State:
                h, c = state
                i, f, g, o = (gates + hh(h)).chunk(4, -1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                return h if hr is None else hr(h), c

            return lstm
        if self.mode == "GRU":

            def gru(gates: Tensor, state: State) -> State:
                (h,) = state
                xr, xz, xn = gates.chunk(3, -1)
                hr, hz, hn = hh(h).chunk(3, -1)
                n = (xn + (xr + hr).sigmoid() * hn).tanh()
                return (n + (xz + hz).sigmoid() * (h - n),)

            return gru
        activation = torch.relu if self.mode == "RNN_RELU" else torch.tanh
        return lambda gates, state: (activation(gates + hh(state[0])),)

    def extra_repr(self) -> str:
        return f"{self.mode}, {self.input_size}, {self.hidden_size}, layers={self.num_layers}"
