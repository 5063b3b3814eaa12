"""A bundle gains variants that are smaller or faster, each measured."""
