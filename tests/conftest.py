"""Shapes and types in signatures are checked while testing, and free in use."""

from jaxtyping import install_import_hook

install_import_hook("bayesprune", "beartype.beartype")
