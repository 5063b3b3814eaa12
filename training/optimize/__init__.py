"""What makes a trained network smaller or faster: pruning, and the fine-tuning that repairs what pruning breaks."""
