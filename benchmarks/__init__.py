"""One file per speed claim; each prints a ratio against the plain way in the same run."""
