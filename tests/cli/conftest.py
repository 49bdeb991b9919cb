"""A finished run that many tests of the command line start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.refusal import prepare


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, never changed: tests work on copies."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder)
    return folder
