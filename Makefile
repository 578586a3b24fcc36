# Short names for what quickstart.py does. BACKEND=jax (the default), tensorflow or torch.

PYTHON ?= python3
BACKEND ?= jax
SETUP = $(PYTHON) quickstart.py setup --backend $(BACKEND)
BIN = .venv/$(BACKEND)/bin

.PHONY: tune test docs lint format wheel clean

tune:
	$(PYTHON) quickstart.py tune --backend $(BACKEND)

test:
	$(PYTHON) quickstart.py test --backend $(BACKEND)

docs:
	$(PYTHON) quickstart.py docs --backend $(BACKEND)

lint:
	$(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format:
	$(SETUP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel:
	$(SETUP)
	$(BIN)/python -m build

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	rm -rf docs/_build docs/generated
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
