"""One algorithm, one file: its equations in the docstring, its rule below them."""
