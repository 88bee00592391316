"""Plug-ins by name: where they come from, and that each name has one and keeps it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from protocols import plugins
from protocols.errors import Misuse
from protocols.plugins import Origin

WHERE = "module:scheme"


class Unreadable:
    value = WHERE

    @property
    def dist(self) -> Any:
        raise OSError("no metadata")


def test_an_entry_point_of_no_package_or_of_one_that_nobody_can_read_is_known_by_itself() -> None:
    unnamed = SimpleNamespace(metadata={"Name": None}, version=None)
    points: list[Any] = [SimpleNamespace(value=WHERE, dist=None), Unreadable(), SimpleNamespace(value=WHERE, dist=unnamed)]
    (origin,) = {plugins._origin(point) for point in points}
    assert origin.entry_point == WHERE
    assert origin.distribution
    assert WHERE in str(origin)


def test_each_name_has_its_own_plugin_which_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    schemes, loads = {name: object() for name in ("one", "two")}, list[str]()

    def offer(name: str) -> Any:
        return Origin("package", "1", f"module:{name}"), SimpleNamespace(load=lambda: loads.append(name) or schemes[name])

    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(plugins, "_registered", {})
    monkeypatch.setattr(plugins, "_offers", lambda: {name: [offer(name)] for name in schemes})
    for name in ("one", "two", "one", "two"):
        assert plugins.find(name, lambda found, *_: found) is schemes[name]  # type: ignore[arg-type,return-value]
    assert loads == ["one", "two"]


def test_a_name_is_registered_again_only_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (SimpleNamespace(name="mine", number=n) for n in (1, 2))
    admit: Any = lambda scheme, *_: scheme  # noqa: E731
    monkeypatch.setattr(plugins, "_registered", {})
    monkeypatch.setattr(plugins, "_offers", dict)
    found: Any = plugins.register(cast("Any", first), admit)
    with pytest.raises(Misuse, match="'mine' of this program .* is refused"):
        plugins.register(cast("Any", second), admit)
    assert plugins.find("mine", admit) is found is first
    plugins.register(cast("Any", second), admit, again=True)
    assert plugins.find("mine", admit) is second


def test_this_process_has_registered_nothing_of_itself() -> None:
    assert set(plugins.names()) == {name for name in plugins._offers() if name not in plugins.RESERVED}
    assert plugins.find("nobody-offers-this", lambda found, *_: found) is None  # type: ignore[arg-type,return-value]
