"""Sparse beside dense, measured: products on any shapes, and whole nets."""
