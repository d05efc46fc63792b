"""The periods of everything that runs by itself, readable at a glance."""

from datetime import timedelta
from typing import Any


def schedule(beat_period: timedelta) -> dict[str, dict[str, Any]]:
    """Return Celery's beat schedule. Each entry expires before its next turn comes."""
    seconds = beat_period.total_seconds()
    return {
        "query the clusters that are due": {
            "task": "tasks.query.query_clusters",
            "schedule": seconds,
            "options": {"expires": seconds * 0.9},
        },
    }
