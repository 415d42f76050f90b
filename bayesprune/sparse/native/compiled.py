"""Compilation of LLVM IR to machine code, cached on disk."""

import ctypes
import hashlib
import os
import stat
import threading
import warnings
from collections.abc import Callable
from dataclasses import astuple
from functools import cache, lru_cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
from llvmlite.binding.newpassmanagers import NewPassManager

from bayesprune import _files
from bayesprune.sparse import activations
from bayesprune.sparse.native.host import Isa, target_machine
from bayesprune.sparse.native.spec import Spec

__all__ = ["MOST", "Entry", "assembly", "cache_folder", "entry"]

Entry = Callable[[int], None]
MOST = 256  # kernels that are kept; one that is not used for long is compiled, or read from disk, again
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # else a child would find it held by a thread that it does not have
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def cache_folder() -> Path:
    """Where compiled kernels are kept: ``BAYESPRUNE_CACHE``, or the user's cache folder."""
    return _files.cache_folder("kernels")


@cache
def _sources() -> bytes:
    paths = (Path(activations.__file__), *sorted(Path(__file__).parent.glob("*.py")))
    return b"".join(path.read_bytes() for path in paths)


def _optimised(text: str, isa: Isa) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    machine = target_machine(isa)
    module = llvm.parse_assembly(text)
    module.verify()
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_vectorization = tuning.slp_vectorization = False
    tuning.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, tuning)
    passes = builder.getModulePassManager()
    passes.run(module, builder)
    NewPassManager._dispose(passes)  # which llvmlite (up to 0.50) forgets to: half a megabyte a kernel
    passes.detach()
    return module, machine


def assembly(text: str, isa: Isa) -> str:
    """What LLVM makes of the IR, as assembly; any target, whatever the host."""
    module, machine = _optimised(text, isa)
    return machine.emit_assembly(module)


def _only_ours(found: os.stat_result) -> bool:
    """Whether what was found is this user's, and no other may write to it. Windows keeps a user's folders so itself."""
    others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not others)


@cache
def _usable(folder: Path) -> bool:
    """Whether machine code may be read from ``folder``, which need not be there; where not, that is said once."""
    try:
        usable = _only_ours(folder.stat())
    except OSError:
        return True  # it is made when something is kept, for this user alone
    if not usable:
        warnings.warn(
            f"compiled kernels are not kept in {str(folder)!r}, where other users may write: each process compiles its "
            "own; set BAYESPRUNE_CACHE to a folder of your own",
            stacklevel=2,
        )
    return usable


def _kept(path: Path) -> bytes | None:
    """The object code in a file, where the file is whole and nobody else's."""
    try:
        with path.open("rb") as file:
            if not _only_ours(os.fstat(file.fileno())):
                return None
            whole = file.read()
    except OSError:
        return None
    return whole[32:] if hashlib.sha256(whole[32:]).digest() == whole[:32] else None


def _object(make: Callable[[], str], spec: Spec) -> bytes:
    """The object code, from disk or made and kept there."""
    key = hashlib.sha256(repr((astuple(spec), llvmlite.__version__)).encode() + _sources()).hexdigest()
    folder = cache_folder()
    path, usable = folder / f"{key[:32]}.o", _usable(folder)
    kept = _kept(path) if usable else None
    if kept is not None:
        return kept
    module, machine = _optimised(make(), spec.isa)
    code = machine.emit_object(module)
    if usable:
        _files.keep(path, hashlib.sha256(code).digest() + code)
    return code


@lru_cache(maxsize=MOST)
def entry(make: Callable[[Spec], str], name: str, spec: Spec) -> tuple[Entry, int, object]:
    """The compiled function ``name`` of the module ``make(spec)``, which releases the GIL, and its address.

    The third is what holds the code: it is gone when nobody has it any more.
    """
    with _lock:
        code = _object(lambda: make(spec), spec)
        empty = llvm.parse_assembly("")
        empty.triple = spec.isa.triple
        machine = target_machine(spec.isa)
        engine = llvm.create_mcjit_compiler(empty, machine)
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        address = engine.get_function_address(name)
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address), address, engine
