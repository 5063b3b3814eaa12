"""What is measured of serving and of a served model."""
