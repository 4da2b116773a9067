"""One run: its options, its steps, its files. The only room that knows Hydra, where files live, and who watches."""
