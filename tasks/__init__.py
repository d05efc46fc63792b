"""When: thin Celery tasks that call the rooms of ``proj``."""
