"""What the room hands on, loaded when it is first used: the one list of its names, for types and at run time."""

from .compacting import Compacted as Compacted
from .compacting import compact as compact
from .cut import Change as Change
