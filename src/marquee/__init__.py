"""From labelled images to a TorchServe endpoint, served exactly as trained."""
