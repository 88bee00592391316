"""Profiles of the property tests: HYPOTHESIS_PROFILE=deep runs those that set no number of their own ten times as long."""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # an audit forks in a process that other tests have used gRPC in

from hypothesis import HealthCheck, settings

os.umask(0o022)  # files that a test writes have the same mode whoever runs it
settings.register_profile("default", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", parent=settings.get_profile("default"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
