"""The stages of a run, one file each: load, draw, allocate, prune, recover, evaluate, save."""
