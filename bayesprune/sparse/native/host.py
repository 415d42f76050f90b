"""The host processor's features, and the LLVM target for it."""

import os
from dataclasses import dataclass
from functools import cache

import llvmlite.binding as llvm

__all__ = ["NEON", "Isa", "host_isa", "target_machine"]


@dataclass(frozen=True)
class Isa:
    """A vector instruction set, as much of it as the generator needs.

    Args:
        name: ``avx512``, ``avx2``, ``neon`` or ``generic``.
        lanes: float32 numbers in a register.
        registers: how many there are.
        dot_bf16: whether products of bfloat16 pairs add into float32 in one instruction (AVX512-BF16).
        triple, cpu, features: LLVM's names for it.
    """

    name: str
    lanes: int
    registers: int
    dot_bf16: bool
    triple: str
    cpu: str
    features: str


NEON = Isa("neon", 4, 32, False, "aarch64-linux-gnu", "neoverse-n1", "+neon,+fp-armv8")


@cache
def _initialised() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


@cache
def _native() -> tuple[str, str, dict[str, bool]]:
    _initialised()
    return llvm.get_process_triple(), llvm.get_host_cpu_name(), dict(llvm.get_host_cpu_features())


@cache
def _isa(limit: str) -> Isa:
    triple, cpu, has = _native()
    flat = ",".join(f"{'+' if on else '-'}{name}" for name, on in sorted(has.items()))
    if has.get("avx512f") and has.get("avx512bw") and has.get("avx512vl") and limit != "avx2":
        return Isa("avx512", 16, 32, bool(has.get("avx512bf16")), triple, cpu, flat)
    if has.get("avx2") and has.get("fma"):
        held = ",".join(f"{'+' if on and 'avx512' not in n else '-'}{n}" for n, on in sorted(has.items()))
        return Isa("avx2", 8, 16, False, triple, cpu, held)
    if triple.startswith(("aarch64", "arm64")):
        return Isa("neon", 4, 32, False, triple, cpu, flat)
    return Isa("generic", 4, 16, False, triple, cpu, flat)


def host_isa() -> Isa:
    """The widest instruction set of this processor; ``BAYESPRUNE_ISA=avx2`` holds AVX-512 back.

    Raises:
        ValueError: ``BAYESPRUNE_ISA`` asks for something else.
    """
    limit = os.environ.get("BAYESPRUNE_ISA", "")
    if limit not in ("", "avx2"):
        raise ValueError(f"BAYESPRUNE_ISA may be avx2 or unset, got {limit!r}")
    return _isa(limit)


def target_machine(isa: Isa) -> llvm.TargetMachine:
    """LLVM's code generator for ``isa``."""
    _initialised()
    if isa.triple != llvm.get_process_triple():
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(isa.triple)
    return target.create_target_machine(cpu=isa.cpu, features=isa.features, opt=3, reloc="pic", jit=False)
