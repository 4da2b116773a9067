"""The entry of a run: turns the configuration into a job, runs its stages one after another, and reports mistakes in one message."""
