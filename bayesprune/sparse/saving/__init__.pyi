"""What the room hands on, loaded when it is first used: the one list of its names, for types and at run time."""

from .compressed import Compressed as Compressed
from .compressed import compressed as compressed
from .contents import contents as contents
from .file import FileError as FileError
from .file import load as load
from .file import nbytes as nbytes
from .file import save as save
