"""TorchServe as a backend of the gateway."""
