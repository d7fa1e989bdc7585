"""Fixtures that several rooms use."""

import os
from collections.abc import Iterator

import pytest

from components.core.step import end_helpers
from tests.s3_server import s3_server

__all__ = ["s3_server"]


@pytest.fixture(autouse=True)
def _registry_address_of_this_test() -> Iterator[None]:
    """MLflow writes the address that it is given into the environment, where the next test's would be this one's deleted file."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


def pytest_sessionfinish() -> None:
    """Tests run readers in this very process; their fork server would outlive it for a moment."""
    end_helpers()
