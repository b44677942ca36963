"""The numerical comparison of exported files with the backbone in eager mode."""
