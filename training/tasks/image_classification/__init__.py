"""Images with one label each, or with several."""
