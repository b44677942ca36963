"""Custom kernels, one folder per operation, each with a reference in plain torch.

Every folder has the same files, as far as they apply:

* `reference.py`: the specification, in plain torch, written so that Inductor fuses it well;
* `op.py`: the registered operators and `IMPLEMENTATIONS`, their implementations in order;
* `triton.py` and `cpp.py`: launchers of the Triton and C++ kernels (`*.cpp`, `*.hpp`);
* `cases.py`: shapes, work and contenders, shared by `check`, the autotuner and the benchmarks;
* `tiles.json`: candidate tile sizes of the Triton kernels.

`runtime` holds what the operations share, `tuned/` the tiles and implementations that were measured
to be fastest on a chip. Nothing here imports the rest of the package.
"""

if __name__ != "mammoth_compiled.kernels":
    raise ImportError("import mammoth_compiled.kernels, not kernels")
