"""Model selection: chooses the candidate, from simple to complex, whose gain in accuracy justifies its cost."""
