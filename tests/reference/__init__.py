"""The second opinion: every algorithm once more in plain numpy, read off the papers alone."""
