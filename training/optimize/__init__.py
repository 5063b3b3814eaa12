"""Adds smaller or faster variants to a bundle and measures each of them."""
