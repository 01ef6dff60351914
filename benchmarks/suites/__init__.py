"""What is compared: a module for each suite; see benchmarks/README.md."""
