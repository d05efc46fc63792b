from django.apps import AppConfig


class DashboardConfig(AppConfig):
    name = "proj.dashboard"
    label = "dashboard"
