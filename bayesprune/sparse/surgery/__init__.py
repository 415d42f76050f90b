"""All that changes a net in place: composites opened, layers replaced, what follows them fused."""
