"""One-shot pruning of a trained net: its Laplace posterior, and the mean of what stays given what went."""
