"""The comparison of finished runs: python -m sparsity.runs.report outputs/<name>."""
