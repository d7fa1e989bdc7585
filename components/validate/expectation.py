"""`checks.py` as one Great Expectations expectation; imported only by the step, because Great Expectations takes seconds to import.

The check runs on what GX hands over as its batch, and its result, its exceptions included, comes back in GX's own result.
"""

from __future__ import annotations

from typing import Any, ClassVar

from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.execution_engine.execution_engine import ExecutionEngine
from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import BatchExpectation
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider

from components.core.dataset import Dataset
from components.core.spec import DiseaseSpec
from components.validate.checks import CHECKS, Data

METRIC = "table.dxflow_finding"


class FindingMetric(TableMetricProvider):
    """Runs the check named in the value arguments over the batch."""

    metric_name = METRIC
    value_keys = ("check", "path", "spec")

    @metric_value(engine=PandasExecutionEngine)
    def _pandas(
        cls,
        execution_engine: PandasExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        metric_value_kwargs: dict[str, Any],
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any],
    ) -> dict[str, Any]:
        frame, _, _ = execution_engine.get_compute_domain(domain_kwargs=metric_domain_kwargs, domain_type=MetricDomainTypes.TABLE)
        dataset = Dataset(metric_value_kwargs["path"])
        spec = DiseaseSpec.from_json(metric_value_kwargs["spec"])
        return CHECKS[metric_value_kwargs["check"]](Data(spec, dataset, frame, dataset.quarantine)).to_dict()


class ExpectFinding(BatchExpectation):
    """The check `check` of `components.validate.checks` holds for the dataset at `path`."""

    check: str
    path: str
    spec: str

    metric_dependencies: ClassVar[tuple[str, ...]] = (METRIC,)
    success_keys: ClassVar[tuple[str, ...]] = ("check", "path", "spec")

    def _validate(
        self, metrics: dict[str, Any], runtime_configuration: dict[str, Any] | None = None, execution_engine: ExecutionEngine | None = None
    ) -> dict[str, Any]:
        finding = metrics[METRIC]
        return {"success": finding["ok"], "result": {"observed_value": finding}}
