"""Several runs: seeds, grids and searches, side by side and resumable.

`python -m mammoth_compiled.run --seeds 0-9` and `--config` with lists run here;
`python -m mammoth_compiled.sweep exp.yaml` also searches.
"""
