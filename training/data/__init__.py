"""Data: what is there (manifest), who sees it (splits), how it is varied (augmentation) and fed (loading)."""
