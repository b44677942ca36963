"""Cases of 3x3 convolution with stride and padding 1."""

# Batch, input channels, output channels, height and width: `benchmarks/cpu_convolutions.py` times
# them, and `MIN_CHANNELS` of the operators follows from the results.
CPU_SHAPES = (
    (32, 16, 16, 32),
    (32, 24, 24, 32),
    (32, 32, 32, 16),
    (32, 32, 64, 16),
    (32, 40, 40, 16),
    (32, 64, 64, 32),
    (32, 128, 128, 16),
    (32, 256, 256, 8),
    (32, 512, 512, 4),
    (8, 64, 64, 56),
)
