"""A model that was trained elsewhere becomes a bundle as training exports it."""
