"""A round of training whose local steps run beside the session: keys and shares are exchanged while the site trains.

The same steps as in `securefl.round`, but for two: `show` hands the task out of the flow where `receive` hands it on, and
`encode_later` waits for the contribution from outside.  So a session is never held by a training that takes hours.

What it does not protect: as `securefl.round`.
"""

from __future__ import annotations

from protocols.flow import Flow, Input, Output
from protocols.session import Session, client
from protocols.vector import Vector
from protocols.wire import Limits
from securefl.errors import UserError
from securefl.models import threads_for
from securefl.round import broadcast, decode_sum, encode_update, local_flow, receive, step
from securefl.round_types import Contribution, GlobalModel, Joined, Site, Task
from securefl.secure import Joining


def show(site: Site, model: GlobalModel) -> tuple[Joining, Joined, Output[Task]]:
    """As `securefl.round.receive`, with the task for whoever trains."""
    joining, joined, task = receive(site, model)
    return joining, joined, Output(task)


def encode_later(contribution: Input[Contribution], joined: Joined) -> Vector:
    """As `securefl.round.encode_update`, when the training is over."""
    return encode_update(contribution, joined)


def round_apart() -> Flow:
    """A round without its local steps and its protocol; `securefl.secure.secured` adds that."""
    flow = Flow("fedavg")
    flow.server(broadcast)
    flow.client(show)
    flow.client(encode_later)
    flow.server(decode_sum)
    flow.server(step)
    return flow


def train_beside(task: Task, local: Flow | None = None) -> Contribution:
    """Run the local steps of a task.

    Raises:
        UserError: where they end without a contribution; and whatever they raise.
    """
    session = Session(local or local_flow(), client(task.site.party.index), {}, [task], Limits(2, {}))
    with threads_for(task.site.model()):
        session.begin()
    found = next((value for value in session.remembers if isinstance(value, Contribution)), None)
    if found is None:
        raise UserError(f"{task.site.name}: the local flow ended without a Contribution")
    return found
