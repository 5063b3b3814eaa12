"""Data: finding the images (scan, manifest), splits, augmentation, caching and loading."""
