"""Django's admin: clusters can be edited; what the service records can only be read."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest

from proj.inventory.models import Cluster, Hold, Instance, Job, Question, Request, Transition

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


@admin.register(Cluster)
class ClusterAdmin(ModelAdmin):
    list_display = ("name", "host", "port", "paused", "looked_not_after", "failures", "last_error")
    fields = (
        "name", "host", "port", "user", "password_source", "certificate", "insecure",
        "unknown", "paused", "max_in_flight", "max_requests", "jobs_per_hour", "confirm_max_age",
    )  # fmt: skip


class RecordAdmin(ModelAdmin):
    """Only ``proj.reconcile`` writes these."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Instance)
class InstanceAdmin(RecordAdmin):
    list_display = ("name", "cluster", "status", "backend_status", "uuid", "confirmed_at")
    ordering = ("cluster__name", "name")
    list_filter = ("cluster", "status", "backend_status")
    search_fields = ("name", "uuid")
    list_select_related = ("cluster",)


@admin.register(Request)
class RequestAdmin(RecordAdmin):
    list_display = ("id", "cluster", "kind", "name", "state", "outcome", "requested_at", "error")
    list_filter = ("cluster", "kind", "state", "outcome")
    list_select_related = ("cluster",)


@admin.register(Question)
class QuestionAdmin(RecordAdmin):
    list_display = ("name", "cluster", "priority", "wanted_since", "job_id", "attempts", "error")
    list_filter = ("cluster", "priority")
    search_fields = ("name", "uuid", "job_id")
    list_select_related = ("cluster",)


@admin.register(Job)
class JobAdmin(RecordAdmin):
    list_display = ("job_id", "cluster", "state", "work", "is_query", "is_ours")
    list_filter = ("cluster", "state")
    list_select_related = ("cluster",)


@admin.register(Hold)
class HoldAdmin(RecordAdmin):
    list_display = ("id", "cluster", "reason", "since", "current", "approved_at")
    list_filter = ("cluster", "current")
    list_select_related = ("cluster",)


@admin.register(Transition)
class TransitionAdmin(RecordAdmin):
    list_display = ("at", "instance", "field", "before", "after", "rule", "source", "job_id")
    list_filter = ("field", "rule", "source")
    search_fields = ("instance__name", "job_id")
    list_select_related = ("instance__cluster",)
