"""Ranks as processes: each host starts its own, the first one brings them together. Neither ssh nor MPI."""
