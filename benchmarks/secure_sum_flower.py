"""Flower's SecAgg+ in one process, metered: its own workflow and its own client mod over a line in memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod.secure_aggregation.secaggplus_mod import secaggplus_mod
from flwr.common import Code, FitIns, FitRes, Parameters, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.compat.common.recorddict_compat import fitres_to_recorddict, parameters_to_arrayrecord
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow
from flwr.supercore.task_identity import TaskIdentity
from result_file import Row
from secure_sum import Cost

from prunefleet_shared.secure_sum.context import threshold

logging.getLogger("flwr").setLevel(logging.ERROR)
TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1  # whose messages these are: the server's
_NO_MODEL = Parameters([], "numpy.ndarray")
"""The model that a server sends along is not part of the sum."""


class MeteredGrid:
    """Carries messages between the workflow and the mods; those of dropped devices end at the masked vector.

    Args:
        vectors: One row a device.
        dropped: Devices, by row, that share keys and then fall silent.
        cost: Devices' part is added to it.

    Attributes:
        carrying_s: Processor time spent here and in devices: not the workflow's.
    """

    def __init__(self, vectors: np.ndarray, dropped: set[int], cost: Cost) -> None:
        self._vectors, self._dropped, self._cost = vectors, dropped, cost
        self._contexts = [Context(1, i + 1, {}, RecordDict(), {}) for i in range(len(vectors))]
        self.carrying_s = 0.0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """What the workflow calls in every stage."""
        del timeout
        start_s = time.process_time()
        answers = [answer for answer in map(self._answer, messages) if answer is not None]
        self.carrying_s += time.process_time() - start_s
        return answers

    def _answer(self, message: Message) -> Message | None:
        number = message.metadata.dst_node_id - 1
        down = recorddict_to_proto(message.content)
        heard = Message(recorddict_from_proto(down), message.metadata.dst_node_id, message.metadata.message_type)
        stage = heard.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
        if stage == Stage.COLLECT_MASKED_VECTORS and number in self._dropped:
            return None
        self._cost.down_bytes[number] += down.ByteSize()
        trained = self._trained(number, heard) if stage == Stage.COLLECT_MASKED_VECTORS else heard
        reply = self._cost.of_device(
            number, lambda: secaggplus_mod(heard, self._contexts[number], lambda _message, _context: trained)
        )
        up = recorddict_to_proto(reply.content)
        self._cost.up_bytes[number] += up.ByteSize()
        return Message(recorddict_from_proto(up), reply_to=heard)

    def _trained(self, number: int, heard: Message) -> Message:
        """What a client's training would give, made beforehand."""
        parameters = ndarrays_to_parameters([self._vectors[number].astype(np.float64)])
        result = FitRes(Status(Code.OK, ""), parameters, num_examples=1, metrics={})
        return Message(fitres_to_recorddict(result, keep_input=True), reply_to=heard)


class Averaging:
    """The least a strategy must do; keeps the mean that came out."""

    def __init__(self, num_devices: int) -> None:
        self._num_devices = num_devices
        self.mean: np.ndarray | None = None

    def configure_fit(self, _round: int, _parameters: Parameters, _manager: object) -> list[tuple[Any, FitIns]]:
        """Everyone takes part."""
        return [(SimpleNamespace(node_id=i + 1), FitIns(_NO_MODEL, {})) for i in range(self._num_devices)]

    def aggregate_fit(self, _round: int, results: list[Any], _failures: list[Any]) -> tuple[None, dict[str, Any]]:
        """Results all hold the mean already."""
        self.mean = parameters_to_ndarrays(results[0][1].parameters)[0]
        return None, {}


def flower(vectors: np.ndarray, dropped: set[int]) -> Row:
    """One session's measured columns; raises if the mean is not the survivors'."""
    num_devices, cost = len(vectors), Cost()
    grid, strategy = MeteredGrid(vectors, dropped, cost), Averaging(num_devices)
    context = LegacyContext(Context(1, 0, {}, RecordDict(), {}), strategy=strategy)  # type: ignore[arg-type]
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    context.state.array_records[MAIN_PARAMS_RECORD] = parameters_to_arrayrecord(_NO_MODEL, keep_input=True)
    workflow = SecAggPlusWorkflow(num_devices, threshold(num_devices), max_weight=1.0)
    cost.of_coordinator(lambda: workflow(grid, context))  # type: ignore[arg-type]
    cost.coordinator_s -= grid.carrying_s
    survivors = sorted(set(range(num_devices)) - dropped)
    if strategy.mean is None or not np.allclose(strategy.mean, vectors[survivors].mean(axis=0), atol=1e-2):
        msg = "a wrong mean"
        raise RuntimeError(msg)
    return cost.columns(survivors)
