from django.apps import AppConfig


class CliConfig(AppConfig):
    name = "proj.cli"
    label = "cli"
