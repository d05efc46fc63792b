"""Where HTTP requests go."""

from django.contrib import admin
from django.urls import path

from proj.api import compute, v1
from proj.api.health import healthz, readyz
from proj.api.metrics import metrics
from proj.dashboard.views import dashboard

urlpatterns = [
    path("", dashboard, name="dashboard"),
    path("admin/", admin.site.urls),
    path("api/v1/", v1.api.urls),
    path("compute/v2.1/", compute.api.urls),
    path("metrics", metrics, name="metrics"),
    path("healthz", healthz),
    path("readyz", readyz),
]
