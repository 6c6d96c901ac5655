"""Side-by-side benchmarks: each figure is measured in one run together with the peer it is compared to."""
