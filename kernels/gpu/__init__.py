"""Triton kernels and their launchers, one operation a file; imported only where Triton is."""
