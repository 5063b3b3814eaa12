"""Benchmarks of serving: requests a second, latency, memory and start beside other servers."""
