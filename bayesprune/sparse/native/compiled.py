"""Compilation of LLVM IR to machine code, cached on disk."""

import ctypes
import hashlib
import threading
from collections.abc import Callable
from dataclasses import astuple
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from bayesprune import _files
from bayesprune.sparse import activations
from bayesprune.sparse.native.host import Isa, target_machine
from bayesprune.sparse.native.spec import Spec

__all__ = ["Entry", "assembly", "cache_folder", "entry"]

Entry = Callable[[int], None]
_lock = threading.Lock()
_engines: list[object] = []  # keep the code alive


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
    builder.getModulePassManager().run(module, builder)
    return module, machine


def assembly(text: str, isa: Isa) -> str:
    """What LLVM makes of the IR, as assembly; any target, whatever the host."""
    module, machine = _optimised(text, isa)
    return machine.emit_assembly(module)


def _object(make: Callable[[], str], spec: Spec) -> bytes:
    """The object code, from disk or made and kept there."""
    key = hashlib.sha256(repr((astuple(spec), llvmlite.__version__)).encode() + _sources()).hexdigest()
    path = cache_folder() / f"{key[:32]}.o"
    try:
        kept = path.read_bytes()
        if hashlib.sha256(kept[32:]).digest() == kept[:32]:
            return kept[32:]
    except OSError:
        pass
    module, machine = _optimised(make(), spec.isa)
    code = machine.emit_object(module)
    _files.keep(path, hashlib.sha256(code).digest() + code)
    return code


@cache
def entry(make: Callable[[Spec], str], name: str, spec: Spec) -> tuple[Entry, int]:
    """The compiled function ``name`` of the module ``make(spec)``, which releases the GIL, and its address."""
    with _lock:
        code = _object(lambda: make(spec), spec)
        empty = llvm.parse_assembly("")
        empty.triple = spec.isa.triple
        machine = target_machine(spec.isa)
        engine = llvm.create_mcjit_compiler(empty, machine)
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        address = engine.get_function_address(name)
        _engines.append(engine)
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address), address
