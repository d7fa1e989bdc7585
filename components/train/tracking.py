"""Curves to MLflow: one run per trained model, in the experiment that bears the disease's name."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from components.core.disk_errors import of_disk
from components.core.errors import ServiceError
from components.core.home import home, tracking_uri
from components.core.models.family import Epoch
from components.core.registry import client

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 1000  # metrics in one request; MLflow takes no more
KEY = "dxflow.train_key"


class Tracking:
    """Opened before training, so that an unreachable server costs no training; written once, after it.

    Raises:
        ServiceError: The server is away or refuses.
    """

    def __init__(self, experiment: str) -> None:
        self.client: MlflowClient = client()
        self.experiment_id = str(self._ask(lambda: self._experiment(experiment)))

    def log(self, *, name: str, key: str, params: dict[str, Any], tags: dict[str, str], history: list[Epoch]) -> str:
        """Write one finished run; a run of the same key that was cut off before its end is finished instead. Returns its id.

        Args:
            key: Of all inputs of the training.
            params: Hyper-parameters: names and numbers, never patient data.
            history: Every figure of every epoch becomes one point of a curve.
        """
        return self._ask(lambda: self._log(name, key, params, tags, history))

    def _log(self, name: str, key: str, params: dict[str, Any], tags: dict[str, str], history: list[Epoch]) -> str:
        from mlflow.entities import Metric, Param, RunTag

        found = self.client.search_runs([self.experiment_id], f"tags.`{KEY}` = '{key}' and attributes.status = 'RUNNING'", max_results=1)
        run_id = found[0].info.run_id if found else self.client.create_run(self.experiment_id, run_name=name, tags={KEY: key}).info.run_id
        now = time.time_ns() // 1_000_000  # when the curve was written; nothing else of the step depends on it
        metrics = [Metric(k, float(v), now, int(epoch["epoch"])) for epoch in history for k, v in epoch.items() if k != "epoch"]
        self.client.log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()], tags=[RunTag(k, v) for k, v in tags.items()])
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH])
        self.client.set_terminated(run_id)
        return run_id

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        if (found := self.client.get_experiment_by_name(name)) is not None:
            return found.experiment_id
        # On a file of our own, MLflow would otherwise put artifacts into the current folder.
        own = tracking_uri().startswith("sqlite:")
        try:
            return self.client.create_experiment(name, artifact_location=(home() / "mlartifacts" / name).as_uri() if own else None)
        except MlflowException:  # another run created it in between
            if (found := self.client.get_experiment_by_name(name)) is None:
                raise
            return found.experiment_id

    def _ask(self, request: Any) -> Any:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return request()
        except (MlflowException, OSError, SQLAlchemyError) as error:  # its message holds addresses and, at times, credentials
            kind = getattr(error, "error_code", None) or type(error).__name__
            raise of_disk(error, where="the curves of training") or ServiceError(
                "MLflow is away or refuses", where="MLFLOW_TRACKING_URI", got=kind, allowed="a server that answers, or nothing for a local file"
            ) from None
