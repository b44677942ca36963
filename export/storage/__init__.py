"""Byte-level access to exported files, so that new weights are written in place."""
