"""For programs: the JSON API, OpenStack's servers, health and metrics."""
