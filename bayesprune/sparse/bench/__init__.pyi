"""What the room hands on, loaded when it is first used: the one list of its names, for types and at run time."""

from .flops import flops as flops
from .tables import of_model as of_model
from .tables import of_products as of_products
from .tables import settings as settings
from .tables import sizes as sizes
