"""What several benchmarks measure with; none of these modules is a benchmark of its own."""
