"""What tests share: nets, passes, a browser, the command line run in this process."""

from support import typechecker

__all__ = ["typechecker"]
