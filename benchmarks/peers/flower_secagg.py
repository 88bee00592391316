"""One round of Flower's SecAgg+ (`SecAggPlusWorkflow`, `secaggplus_mod`), timed: one JSON object with CPU seconds by stage.

Server and parties run in this process over a grid that passes every message through Flower's own protobuf.  Parties drop after they
have shared their keys.  Left out of the seconds: training, quantising, and the writing and parsing of messages (``messages_s``, of
all parties together).  A party counts as one of its own neighbours, so ``--shares 31`` is a graph of 30.  Each party's input is the
same vector plus a number of its own; the mean is compared.  ``pip install flwr==1.41.0 numpy``.

usage: OMP_NUM_THREADS=1 DIR/flower/bin/python benchmarks/peers/flower_secagg.py --clients 100 --dim 1000000 --dropout 0.1
           --shares 31 --threshold 0.5
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from statistics import median
from typing import Any

import flwr
import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.compat.common import recorddict_compat as compat
from flwr.server import ServerConfig, SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow
from flwr.serverapp.grid import Grid
from flwr.supercore.task_identity import TaskIdentity

# The package gives the function of this name, not the module.
party_module: Any = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
STAGES = ("setup", "share_keys", "collect_masked_vectors", "unmask")
WEIGHT = 500


class Clock:
    """CPU seconds by name; what is measured inside another measurement is taken out of that one."""

    def __init__(self) -> None:
        self.spent, self.inner = Counter[Hashable](), 0.0

    def call(self, name: Hashable, act: Callable[[], Any]) -> Any:
        """Run and count."""
        outer, self.inner = self.inner, 0.0
        began = time.process_time()
        out = act()
        whole = time.process_time() - began
        self.spent[name] += whole - self.inner
        self.inner = outer + whole
        return out


class Round(Grid):
    """The parties, and the way between them and the server."""

    def __init__(self, clients: int, dim: int, dropout: float) -> None:
        self.clock, self.stage = Clock(), -1
        self.client_s: dict[str, list[float]] = defaultdict(list)
        self.upload = Counter[str]()
        self.ids = list(range(1, clients + 1))
        lost = int(clients * dropout)
        self.lost = {self.ids[i * clients // lost] for i in range(lost)} if lost else set[int]()
        self.base = np.random.default_rng(0).normal(0, 0.1, dim).astype(np.float32)
        self.contexts = {u: Context(run_id=1, node_id=u, node_config={}, state=RecordDict(), run_config={}) for u in self.ids}

    @staticmethod
    def own(u: int) -> float:
        """What one party's vector is larger by."""
        return (u % 7) * 0.01

    def train(self, message: Message, context: Context) -> Message:
        """Stands for training."""

        def act() -> Message:
            vector = self.base + np.float32(self.own(context.node_id))
            done = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([vector]), WEIGHT, {})
            return Message(compat.fitres_to_recorddict(done, keep_input=False), reply_to=message)

        return self.clock.call("training", act)

    def carry(self, content: RecordDict) -> tuple[RecordDict, int]:
        """The same content after protobuf, and its bytes."""

        def act() -> tuple[RecordDict, int]:
            written = recorddict_to_proto(content)
            raw = written.SerializeToString()
            return recorddict_from_proto(type(written).FromString(raw)), len(raw)

        return self.clock.call("messages", act)

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:  # noqa: ARG002  (Flower's name)
        """One stage: each party that is there answers."""
        self.stage += 1
        return self.clock.call("grid", lambda: [self.answer(message, STAGES[self.stage]) for message in messages])

    def answer(self, message: Message, stage: str) -> Message:
        """What one party says in a stage."""
        u = message.metadata.dst_node_id
        vars(message.metadata).update(_run_id=1, _message_id=f"{stage}-{u}")
        if u in self.lost and stage in STAGES[2:]:
            return Message(Error(code=3, reason="dropped"), reply_to=message)
        content, _ = self.carry(message.content)
        arrived = Message(content, u, message.metadata.message_type, group_id=message.metadata.group_id)
        vars(arrived.metadata).update(vars(message.metadata))
        before = self.clock.spent[stage, "party"]
        said = self.clock.call((stage, "party"), lambda: party_module.secaggplus_mod(arrived, self.contexts[u], self.train))
        self.client_s[stage].append(self.clock.spent[stage, "party"] - before)
        content, size = self.carry(said.content)
        self.upload[stage] = max(self.upload[stage], size)
        return Message(content, reply_to=message)

    def get_node_ids(self) -> list[int]:
        """Of all parties."""
        return self.ids

    def set_run(self, *_: Any, **__: Any) -> None:
        """Not needed."""

    run = property(set_run)
    create_message = push_messages = pull_messages = set_run


class Proxy(ClientProxy):
    """A party as the server's manager knows it; its methods are not called."""

    def unused(self, *_: Any, **__: Any) -> None:
        """Not called."""

    get_properties = get_parameters = fit = evaluate = reconnect = unused


def server_context(grid: Round) -> LegacyContext:
    """What the workflow reads: parties, strategy, the model, the number of the round."""
    n, manager = len(grid.ids), SimpleClientManager()
    for u in grid.ids:
        proxy = Proxy(str(u))
        proxy.node_id = u
        manager.register(proxy)
    strategy = FedAvg(fraction_fit=1.0, min_fit_clients=n, min_available_clients=n)
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
    out = LegacyContext(context, ServerConfig(num_rounds=1), strategy, manager)
    out.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1, Key.START_TIME: time.time()})
    model = compat.parameters_to_arrayrecord(ndarrays_to_parameters([grid.base]), keep_input=False)
    out.state.array_records[MAIN_PARAMS_RECORD] = model
    return out


def workflow(clock: Clock, shares: int, threshold: int) -> SecAggPlusWorkflow:
    """Flower's flow, with its stages and its quantising under the clock."""
    flow, quantize = SecAggPlusWorkflow(num_shares=shares, reconstruction_threshold=threshold), party_module.quantize
    party_module.quantize = lambda *given: clock.call("quantising", lambda: quantize(*given))

    def timed(stage: str, act: Callable[..., bool]) -> Callable[..., bool]:
        def run(*given: Any) -> bool:
            if not clock.call((stage, "server"), lambda: act(*given)):
                raise SystemExit(f"the stage {stage} failed")
            return True

        return run

    for stage in STAGES:
        name = f"{stage}_stage"
        setattr(flow, name, timed(stage, getattr(flow, name)))
    return flow


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--dim", type=int, default=1_000_000)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--shares", type=int, default=31)
    parser.add_argument("--threshold", type=float, default=0.5, help="share of the shares")
    given = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0
    grid = Round(given.clients, given.dim, given.dropout)
    clock = grid.clock
    flow = workflow(clock, given.shares, max(2, round(given.threshold * given.shares)))
    context = server_context(grid)
    flow(grid, context)
    got = parameters_to_ndarrays(compat.arrayrecord_to_parameters(context.state.array_records[MAIN_PARAMS_RECORD], keep_input=True))
    own = np.mean([grid.own(u) for u in grid.ids if u not in grid.lost])
    client = {stage: median(values) for stage, values in grid.client_s.items()}
    server = {stage: clock.spent[stage, "server"] for stage in STAGES}
    out = {
        "flwr": flwr.__version__,
        "client_s": sum(client.values()),
        "server_s": sum(server.values()),
        "client_by_stage_s": client,
        "server_by_stage_s": server,
        "quantising_s": clock.spent["quantising"] / (given.clients - len(grid.lost)),
        "messages_s": clock.spent["messages"],
        "upload_bytes": sum(grid.upload.values()),
        "error": float(np.abs(got[0] - grid.base.astype(np.float64) - own).max()),
    }
    print(json.dumps(out))


if __name__ == "__main__":
    main()
