"""What the room hands on, loaded when it is first used: the one list of its names, for types and at run time."""

from .plan import Choice as Choice
from .plan import Plan as Plan
from .planner import left_bits as left_bits
from .planner import left_formats as left_formats
