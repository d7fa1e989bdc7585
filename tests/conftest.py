"""Fixtures that several rooms use, and what makes generated tests the same everywhere."""

from hypothesis import settings
from hypothesis.internal.conjecture import providers

from components.core.step import end_helpers
from tests.browser import browser
from tests.s3_server import s3_server

__all__ = ["browser", "s3_server"]

# The same examples in every run and on every machine. Hypothesis mixes constants of all modules that happen to be imported into what it draws, so a
# test would try other examples alone than behind its neighbours; `tests/test_generated.py` holds that it does not.
settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")
providers.is_local_module_file = lambda path: False


def pytest_sessionfinish() -> None:
    """Tests run readers in this very process; their fork server would outlive it for a moment."""
    end_helpers()
