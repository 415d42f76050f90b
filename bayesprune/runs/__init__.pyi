"""What the room hands on, loaded when it is first used: the one list of its names, for types and at run time."""

from .demo import TASKS as TASKS
from .demo import Task as Task
from .demo import claim_folder as claim_folder
from .demo import run_demo as run_demo
from .expressions import assigned as assigned
from .expressions import saliency_of as saliency_of
from .folder import RunFolder as RunFolder
from .folder import to_json as to_json
from .pictures import swept as swept
from .pictures import write_curve as write_curve
from .pictures import write_snr as write_snr
from .recipe import Recipe as Recipe
from .sources import Data as Data
from .sources import find_data as find_data
from .sources import find_net as find_net
from .suggestions import suggestion as suggestion
from .train import Prepared as Prepared
from .train import example_of as example_of
from .train import open_data as open_data
from .train import open_run as open_run
from .train import prepare as prepare
from .train import seeded as seeded
from .train import threads_here as threads_here
from .train import train as train
from .train import use_threads as use_threads
