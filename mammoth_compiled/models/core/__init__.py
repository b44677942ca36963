"""The parts of `ContinualModel`: hooks, position in the run, optimizer and saved state."""
