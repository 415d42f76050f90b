"""Our own Triton kernels for BSR weights on a GPU. Importing this folder imports no Triton: its modules do."""
