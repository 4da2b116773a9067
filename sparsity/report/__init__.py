"""The comparison of finished runs: python -m sparsity.report outputs/<name>."""
