"""What tasks share whose answers are labels: metrics, and the calibration of probabilities."""
