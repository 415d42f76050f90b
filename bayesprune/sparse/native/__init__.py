"""The CPU kernel: LLVM IR written here and compiled by llvmlite."""
