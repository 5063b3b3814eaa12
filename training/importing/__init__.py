"""Imports a model that was trained elsewhere into a bundle like those that training exports."""
