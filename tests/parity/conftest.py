"""Every test here is marked `parity`: `make test-parity` runs them, `make test` does not."""

import pathlib

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if pathlib.Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.parity)
