import pytest

from cognitionos_provider.definitions import validator


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given up in the end is given up sooner: the bounds themselves are no test's subject."""
    monkeypatch.setattr(validator, "_SECONDS", 2.0)
    monkeypatch.setattr(validator, "_PATTERN_SECONDS", 0.3)
