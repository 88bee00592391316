"""What stands for training in tests of the command line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from made_result import record, result

from securefl.cli import main
from securefl.data.types import Dataset
from securefl.job import Job
from securefl.results import RoundRecord, RunResult


class Runner:
    """Stands for securefl.experiment: remembers the job, tells two rounds, returns or raises what it is told to."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.answer: Callable[[Job], RunResult] = result

    def run_job(
        self,
        job: Job,
        *,
        dataset: Dataset,
        on_event: Callable[[RoundRecord], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
        on_start: Callable[[], None] = lambda: None,
        recording: object = None,
    ) -> RunResult:
        assert dataset.name == "made data"
        if on_notice:
            on_notice("told when it happens")
        on_start()
        self.jobs.append(job)
        print("noise of a library")
        if on_event:
            on_event(record(1, auroc=0.5))
            on_event(record(job.privacy.rounds, aborted="too-few-survivors", epsilon=1.5))
        return self.answer(job)


def refused(capsys: pytest.CaptureFixture[str], *args: str, code: int = 2) -> str:
    """The one line of a refusal; stdout stays empty."""
    assert main(list(args)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("securefl: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    return captured.err
