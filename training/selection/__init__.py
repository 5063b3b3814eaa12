"""Model selection: which of several candidates, from simple to complex, is worth its price on this data set."""
