"""The door: what Hydra composes becomes a job, its stages run one after another, and mistakes become one message."""
