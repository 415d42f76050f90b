"""What the room hands on, loaded when it is first used: the one list of its names, for types and at run time."""

from .door import Pruned as Pruned
from .door import condition as condition
from .door import prune as prune
