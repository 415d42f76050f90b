"""Facts collected on the walk along the graph, from which the solver works."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bayesprune.sparse.compact.atoms import Atoms

__all__ = ["Axis", "Facts", "Flow", "Groups", "Limit", "Mix", "Parts", "Read", "Rect", "Spread", "Uncut", "Whole"]


@dataclass(frozen=True)
class Flow:
    """Pointwise dependence: each of ``out`` depends on the atom beside it in ``into``, where ``through`` is True."""

    out: Tensor
    into: Tensor
    through: Tensor | None = None


@dataclass(frozen=True)
class Mix:
    """Dense dependence: any of ``out`` depends on all of ``into``."""

    out: Tensor
    into: Tensor


@dataclass(eq=False)
class Read:
    """A product with a weight: it reads channels, each through its column, and makes others, each by its row.

    Args:
        path: the module that computes it.
        weight: the parameter's name.
        bias: the bias's name, of a parameter that is there or can be made; None where a constant cannot go there.
        kept: bool ``(groups, rows, columns)`` of a group, True where an entry is kept.
        rows: the atom of each row, groups one after the other.
        index: the column of each of ``columns``, groups one after the other.
        columns: the atoms that columns read.
        constant: for each column what it reads where that is one constant, or the factor of a shape, else NaN.
        shapes: for each column the number of that shape.
        folds: whether a constant adds the same to all entries of a row: not where a padding's zeros come between.
        carries: whether one constant column can stand in for others of its group and shape.
        out_axis: the weight's axis of rows; 0 but for transposed weights.
    """

    path: str
    weight: str
    bias: str | None
    kept: Tensor
    rows: Tensor
    index: Tensor
    columns: Tensor
    constant: Tensor
    shapes: Tensor
    folds: bool
    carries: bool = True
    out_axis: int = 0

    @property
    def takes(self) -> Tensor:
        """For each column whether its constant, where it is one, can move into the bias."""
        return (self.shapes == 0) & (self.folds and self.bias is not None)

    @property
    def families(self) -> Tensor:
        """For each column the number of those that can stand in for one another: of one group and shape."""
        groups, _, columns = self.kept.shape
        return torch.arange(groups).repeat_interleave(columns) * (int(self.shapes.max()) + 1) + self.shapes


@dataclass(frozen=True)
class Rect:
    """Constraint: a tensor of these labels stays a full box, of which whole slices go.

    Args:
        labels: the tensor's.
        path: the module that makes it.
        viewed: by a view, whose sizes may be written into the forward.
    """

    labels: Tensor
    path: str
    viewed: bool = False


@dataclass(frozen=True)
class Uncut:
    """Constraint: along ``axis`` no slice of these labels goes."""

    labels: Tensor
    axis: int
    path: str
    reason: str = "it is taken apart by numbers that are written in"


@dataclass(frozen=True)
class Parts:
    """Constraint: as many slices of ``labels`` go in each of ``count`` equal parts along ``axis``."""

    labels: Tensor
    axis: int
    count: int
    path: str


@dataclass(frozen=True)
class Groups:
    """Constraint of a grouped convolution: whole groups go, or as many inputs and outputs of each group."""

    columns: Tensor  # (groups, inputs of one)
    rows: Tensor  # (groups, outputs of one)
    path: str


@dataclass(frozen=True)
class Spread:
    """An operand spread over some axes, which varies along others: it goes along where all that it meets goes together.

    Args:
        out: the atoms of the result.
        own: the operand's beside each.
        limits: what holds where these are not of one channel for all of ``out``: then the operand stays.
    """

    out: Tensor
    own: Tensor
    limits: tuple[Uncut, ...]


Limit = Rect | Uncut | Parts | Groups


@dataclass(frozen=True)
class Axis:
    """Which slices of a parameter or buffer go: along ``axis``, those whose atom goes."""

    name: str
    axis: int
    index: Tensor
    atoms: Tensor


@dataclass(frozen=True)
class Whole:
    """A parameter or buffer that enters entry by entry."""

    name: str
    labels: Tensor


@dataclass
class Facts:
    """All facts and constraints found on the walk."""

    atoms: Atoms = field(default_factory=Atoms)
    steps: list[Flow | Mix | Read] = field(default_factory=list)  # in the order in which they are computed
    limits: list[Limit] = field(default_factory=list)
    spreads: list[Spread] = field(default_factory=list)
    axes: list[Axis] = field(default_factory=list)
    wholes: list[Whole] = field(default_factory=list)
    free: list[tuple[Tensor, str]] = field(default_factory=list)  # go only with what they meet; why they stay else
    ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    pins: list[tuple[Tensor, str]] = field(default_factory=list)
    stays: dict[str, str] = field(default_factory=dict)  # parameters that stay whole, and why
    entered: dict[str, int] = field(default_factory=dict)  # by module, how many limits were there when it was called
    needed: list[Tensor] = field(default_factory=list)  # what the net gives out
    dropped: list[Tensor] = field(default_factory=list)  # what a module gives that nothing given out needs

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Constraint: each of ``a`` goes only where the one beside it in ``b`` goes."""
        self.ties.append(tuple(torch.broadcast_tensors(a.flatten(), b.flatten())))  # type: ignore[arg-type]

    def tie_by(self, index: Tensor, atoms: Tensor, count: int) -> None:
        """All atoms of one place go together; ``index`` is the place of each, out of ``count``."""
        first = torch.zeros(count, dtype=torch.int64).scatter_reduce(0, index, atoms, "amin", include_self=False)
        self.tie(first[index], atoms)

    def pin(self, atoms: Tensor, reason: str) -> None:
        """Constraint: none of ``atoms`` goes."""
        self.pins.append((atoms.unique(), reason))
