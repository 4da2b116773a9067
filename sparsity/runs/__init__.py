"""The start of a run: turns the configuration into a job, runs the stages in order, and reports a mistake in one message."""
