"""The periods of everything that runs by itself, readable at a glance."""

from datetime import timedelta
from typing import Any


def schedule(beat_period: timedelta) -> dict[str, dict[str, Any]]:
    """Return Celery's beat schedule. Each entry expires before its next turn comes."""
    seconds = beat_period.total_seconds()
    each_beat = {"schedule": seconds, "options": {"expires": seconds * 0.9}}
    return {
        "look at the clusters that are due": {"task": "tasks.query.query_clusters", **each_beat},
        "follow their job queues": {"task": "tasks.follow.follow_clusters", **each_beat},
        "forget what is over": {
            "task": "tasks.housekeeping.keep_house",
            "schedule": 10.0,
            "options": {"expires": 9.0},
        },
    }
