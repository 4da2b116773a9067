"""The entry of a run: turns the configuration into a job, runs its stages in order, and reports mistakes in one message."""
