"""The folder of a run: its files, its environment, the result of a finished run, and the display of that in a terminal.

The report and the cache use this room too, so importing it loads neither transformers nor a model.
"""
