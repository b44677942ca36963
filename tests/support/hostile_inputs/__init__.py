"""Hostile inputs by kind, and the harness that runs them in forked processes."""
