"""The report: a page, a Markdown table and a CSV that compare finished runs (python -m sparsity.report outputs/<name>)."""
