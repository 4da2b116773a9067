"""What a run's folder is: its files, where it happened, what a finished run says, and how that is shown in a terminal.

Light: a report reads this room alone, and loads neither a model nor torch.
"""
