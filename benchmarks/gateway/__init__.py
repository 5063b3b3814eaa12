"""What the gateway loses when its workers, its host or itself are ended, and what it costs."""
