"""Model selection: chooses the candidate, from simple to complex, whose gain justifies its cost."""
