"""Tools that find settings for a training run."""
