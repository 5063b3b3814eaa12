"""The demos: what each of them trains on, sends and checks; the steps that all of them go through."""
