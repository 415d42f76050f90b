"""What the room hands on, loaded when it is first used: the one list of its names, for types and at run time."""

from .exporting import export as export
from .formats import BSR as BSR
from .formats import CSR as CSR
from .formats import Dense as Dense
from .formats import Format as Format
from .formats import SemiStructured as SemiStructured
from .formats import SparseWeight as SparseWeight
from .layers import SparseLinear as SparseLinear
from .onnx import OnnxFile as OnnxFile
from .onnx import to_onnx as to_onnx
from .planning import Choice as Choice
from .planning import Plan as Plan
from .planning.planner import plan as plan
from .saving import Compressed as Compressed
from .saving import FileError as FileError
from .saving import compressed as compressed
from .saving import contents as contents
from .saving import load as load
from .saving import nbytes as nbytes
from .saving import save as save
from .saving.coding import Codebook as Codebook
