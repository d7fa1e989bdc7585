"""Fixtures that several rooms use."""

from components.core.step import end_helpers
from tests.browser import browser
from tests.s3_server import s3_server

__all__ = ["browser", "s3_server"]


def pytest_sessionfinish() -> None:
    """Tests run readers in this very process; their fork server would outlive it for a moment."""
    end_helpers()
