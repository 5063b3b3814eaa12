"""What is measured of a served model."""
