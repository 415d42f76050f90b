"""Our own Triton kernels for BSR weights. Importing this folder imports no Triton: its modules do."""
