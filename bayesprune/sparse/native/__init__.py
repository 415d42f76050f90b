"""The CPU kernel: LLVM IR that we write, compiled by llvmlite."""
