"""Keeps a database of instances true to the Ganeti clusters that run them."""

from proj.celery import app as celery_app

__all__ = ("celery_app",)
