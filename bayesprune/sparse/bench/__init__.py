"""Benchmarks of sparse against dense: single products and whole nets."""
