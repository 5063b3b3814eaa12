"""Programs to read and run; nothing depends on them."""
