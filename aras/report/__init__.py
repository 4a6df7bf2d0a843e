"""The report: what all stages left, gathered into one page."""
