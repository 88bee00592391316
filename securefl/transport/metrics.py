"""What a server tells Prometheus: numbers of what its log has, and nothing of any party's rows or values.

What it does not protect: the page has no password, so it belongs on an address that only the monitoring reaches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import Metric

from securefl.errors import UserError
from securefl.transport.log import Log, Value

SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
"""Upper bounds of the histogram of rounds."""


class Metered:
    """A log that counts what passes through it.

    Args:
        log: where the lines go.

    Attributes:
        registry: the numbers.
    """

    def __init__(self, log: Log) -> None:
        self._log, self.registry = log, CollectorRegistry()
        self._rounds = Counter("securefl_rounds", "Rounds that ended, by outcome.", ["outcome"], registry=self.registry)
        self._seconds = Histogram("securefl_round_seconds", "Seconds of a round.", buckets=SECONDS, registry=self.registry)
        self._contributors = Gauge("securefl_contributors", "Parties in the last sum.", registry=self.registry)
        self._present = Gauge("securefl_parties_present", "Parties that are connected.", registry=self.registry)
        self._refused = Counter("securefl_refused", "Calls and messages refused, by check.", ["check"], registry=self.registry)
        self._cut = Counter("securefl_streams_ended", "Streams of parties that ended, by how.", ["how"], registry=self.registry)

    def __call__(self, event: str, **about: Value) -> None:
        """Count, then write the line."""
        if event == "round":
            aborted = about.get("aborted") is not None
            self._rounds.labels("aborted" if aborted else "finished").inc()
            self._seconds.observe(_number(about.get("seconds")))
            self._contributors.set(_number(about.get("contributors")))
        if event in ("seated", "gone"):
            self._present.set(_number(about.get("present")))
        if event in ("refused", "fault"):
            self._refused.labels(str(about.get("check"))).inc()
        if event == "gone":
            self._cut.labels(str(about.get("how"))).inc()
        self._log(event, **about)


class Together:
    """The numbers of several logs on one page, each with the name of its federation as a label.

    Args:
        parts: by name; an empty one gives no label.

    Attributes:
        registry: the numbers.
    """

    def __init__(self, parts: Mapping[str, Metered]) -> None:
        self._parts, self.registry = parts, CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """As prometheus_client asks for it."""
        families = dict[str, Metric]()
        for name, part in self._parts.items():
            for found in part.registry.collect():
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                own = {"federation": name} if name else {}
                family.samples += [sample._replace(labels={**sample.labels, **own}) for sample in found.samples]
        return families.values()


def _number(value: Value) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


@contextmanager
def shown(metered: Metered | Together, where: str | None) -> Iterator[int | None]:
    """Serve ``/metrics`` on HOST:PORT; gives the port, or None where nothing was asked for.

    Raises:
        UserError: where nobody can listen there.
    """
    if where is None:
        yield None
        return
    host, _, port = where.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), metered.registry)
    except OSError as error:
        raise UserError(f"cannot show metrics on {where}: {error.strerror or error}") from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
