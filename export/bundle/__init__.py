"""The directory of a bundle: its manifest, and how it is written, checked and described."""
