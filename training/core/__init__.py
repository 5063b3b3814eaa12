"""A run from a data set to a bundle, whatever is learned: it knows no kind of data and no kind of answer."""
