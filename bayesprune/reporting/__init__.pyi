"""What the room hands on, loaded when it is first used: the one list of its names, for types and at run time."""

from .curve import Curve as Curve
from .curve import Point as Point
from .hub import from_pretrained as from_pretrained
from .hub import push_to_hub as push_to_hub
from .hub import save_pretrained as save_pretrained
from .report import report as report
from .result import Report as Report
from .sweeping import sweep as sweep
from .versions import versions as versions
from .weights import WeightRow as WeightRow
