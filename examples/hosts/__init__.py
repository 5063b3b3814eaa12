"""One bundle behind other servers; each file is a whole server."""
