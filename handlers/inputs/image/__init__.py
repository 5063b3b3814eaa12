"""Image files, or nested lists of pixels -> uint8 pixels of the model's input size."""
