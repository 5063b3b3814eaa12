"""What the reports of all tasks share: reading a run's files, formatting, figures, and pieces of page and card."""
