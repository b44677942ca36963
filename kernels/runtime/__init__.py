"""What all operations share: launching, registration, tiles, random numbers, the C++ library."""
