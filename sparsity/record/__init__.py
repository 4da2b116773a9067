"""The folder of a run: its files, its environment, the result of a finished run, and the display of that in a terminal.

The report reads only this room of the package, so importing its modules loads no model.
"""
