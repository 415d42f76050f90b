"""In-place changes of a net: composites opened, layers replaced, followers fused."""
