.PHONY: setup test

.venv/installed: requirements/dev.txt
	python3 -m venv .venv
	.venv/bin/pip install --quiet -r requirements/dev.txt
	touch $@

setup: .venv/installed ## Create the virtual environment

test: setup ## Run every test
	.venv/bin/pytest -q
