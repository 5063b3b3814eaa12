"""Benchmarks of training: speed at equal work, accuracy, and what each regulariser is worth."""
