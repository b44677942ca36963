"""Kernels in C++ for CPUs with AVX2 or AVX-512, compiled for the machine on first use.

Convolutions are what a CPU spends its time on in small networks. Those here do less arithmetic than
torch's: 3x3 convolutions by Winograd's F(2x2, 3x3), gradients behind a max pooling from the pixels
that have one.
"""
