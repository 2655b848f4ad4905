"""When a host is too busy or too full, and when that is over."""

from __future__ import annotations

import pytest

from backend.errors import Invalid
from backend.hosts.alerting import Alerts, alerts, crossed, require_alerts

CPU = "alert_cpu_percent"


@pytest.mark.parametrize("value, before, now", [
    (94.9, (), []), (95.0, (), [CPU]), (94.0, (CPU,), [CPU]), (85.6, (CPU,), [CPU]), (85.0, (CPU,), []),
    (None, (CPU,), [CPU]), (None, (), []),
])  # fmt: skip
def test_a_threshold_with_its_other_edge(value: float | None, before: tuple[str, ...], now: list[str]) -> None:
    assert crossed({CPU: value}, Alerts(), before) == now


def test_thresholds_of_a_cluster() -> None:
    assert alerts({CPU: 50}).alert_cpu_percent == 50 and alerts({}).alert_memory_percent == 95
    assert crossed({CPU: 99.0}, alerts({CPU: 0}), [CPU]) == []  # 0: never, and what was is over
    with pytest.raises(Invalid):
        require_alerts(alerts({CPU: 101}))
