.PHONY: fix check test docs web

fix:  ## format and mend what can be mended
	ruff check --fix src tests benchmarks examples
	ruff format src tests benchmarks examples

check:  ## what CI checks before the tests
	ruff check src tests benchmarks examples
	ruff format --check src tests benchmarks examples
	mypy

test:  ## the default suite: offline, two minutes
	pytest

web:  ## the chat page, from web/ into the package; needs Node
	cd web && npm ci && npm run build

docs:  ## the README's lines and every help example, parsed
	pytest tests/test_docs.py
