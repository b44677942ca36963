"""Model repositories for serving systems, one module per system."""
