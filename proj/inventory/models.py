"""Clusters, their instances, every change of state, and what is being asked right now.

All times are on the one clock of ``proj.clock``. Only ``proj.reconcile.apply`` writes the
state of an instance.
"""

from django.db import models
from django.db.models import Q

from proj.observation import Evidence, Interval, Status


def _choices(values: type[Status] | type[Evidence]) -> list[tuple[str, str]]:
    return [(value.value, value.value) for value in values]


class UnknownPolicy(models.TextChoices):
    """What to do with an instance that Ganeti has and we never heard of."""

    ADOPT = "adopt"
    REPORT = "report"


class Cluster(models.Model):
    """A Ganeti cluster: how to reach it, how hard to press it, and how it has answered."""

    name = models.SlugField(max_length=100, unique=True)
    host = models.CharField(max_length=255)
    port = models.PositiveIntegerField(default=5080)
    user = models.CharField(max_length=100)
    password_source = models.CharField(
        max_length=500, help_text="file:PATH or env:NAME; the password itself is never stored"
    )
    certificate = models.TextField(
        blank=True, help_text="PEM that RAPI must present, or the CA that signed it"
    )
    insecure = models.BooleanField(default=False, help_text="accept any certificate")

    unknown = models.CharField(
        max_length=10, choices=UnknownPolicy.choices, default=UnknownPolicy.ADOPT
    )
    paused = models.BooleanField(default=False)
    max_in_flight = models.PositiveSmallIntegerField(
        default=3, help_text="query jobs in Ganeti's queue at once"
    )
    max_requests = models.PositiveSmallIntegerField(
        default=4, help_text="requests to RAPI at once; it serves 20 clients, and hangs the next"
    )
    jobs_per_hour = models.PositiveIntegerField(
        default=240, help_text="query jobs an hour that the audit may spend"
    )
    confirm_max_age = models.DurationField(
        help_text="every instance is to be confirmed by a job at least this often"
    )

    pace = models.FloatField(
        null=True, blank=True, help_text="seconds between two looks: faster while things change"
    )
    next_look_at = models.DateTimeField(null=True, blank=True)
    look_until = models.DateTimeField(
        null=True, blank=True, help_text="until when the present look owns this cluster"
    )
    await_until = models.DateTimeField(
        null=True, blank=True, help_text="until when a chain of polls is known to be alive"
    )
    feed_after = models.BigIntegerField(
        null=True, blank=True, help_text="the newest job of the queue that was seen"
    )
    next_follow_at = models.DateTimeField(null=True, blank=True)
    follow_until = models.DateTimeField(
        null=True, blank=True, help_text="until when the present reading of the queue owns it"
    )
    followed_not_before = models.DateTimeField(null=True, blank=True)
    follow_failures = models.PositiveIntegerField(
        default=0, help_text="readings of the queue that failed in a row"
    )
    looked_not_before = models.DateTimeField(null=True, blank=True)
    looked_not_after = models.DateTimeField(null=True, blank=True)
    agreed_digest = models.CharField(
        max_length=64, blank=True, help_text="the last list that held no news"
    )
    agreed_revisions = models.BigIntegerField(default=0)
    failures = models.PositiveIntegerField(default=0, help_text="looks that failed in a row")
    query_failures = models.PositiveIntegerField(
        default=0, help_text="steps of the chain that failed in a row"
    )
    last_error = models.TextField(blank=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    @property
    def is_failing(self) -> bool:
        """Whether the last request of any kind failed: the next one is to be a cheap one."""
        return bool(self.failures or self.follow_failures or self.query_failures)


class Instance(models.Model):
    """The last known state of one instance."""

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="instances")
    name = models.CharField(max_length=255)
    status = models.CharField(max_length=10, choices=_choices(Status))
    backend_status = models.CharField(max_length=50, blank=True)
    memory = models.PositiveIntegerField(null=True, blank=True, help_text="MiB")
    vcpus = models.PositiveIntegerField(null=True, blank=True)
    disks = models.JSONField(null=True, blank=True, help_text="sizes in MiB")
    nics = models.JSONField(null=True, blank=True)
    nodes = models.JSONField(null=True, blank=True, help_text="primary first")
    os = models.CharField(max_length=255, null=True, blank=True)

    observed_not_before = models.DateTimeField()
    observed_not_after = models.DateTimeField()
    confirmed_at = models.DateTimeField(
        null=True, blank=True, help_text="when a query job last spoke for it"
    )

    operation = models.CharField(
        max_length=30, blank=True, help_text="Ganeti's job on it: CREATE, REBOOT, ..."
    )
    operation_job_id = models.BigIntegerField(null=True, blank=True)
    operation_since = models.DateTimeField(null=True, blank=True)
    operation_end = models.CharField(max_length=10, blank=True)
    operation_ended_at = models.DateTimeField(null=True, blank=True)

    witness_word = models.CharField(
        max_length=50, blank=True, help_text="what the last list said, where it differed"
    )
    witness_not_before = models.DateTimeField(null=True, blank=True)
    witness_not_after = models.DateTimeField(null=True, blank=True)
    missing_first = models.DateTimeField(
        null=True, blank=True, help_text="when the first list that lacked it began"
    )
    missing_last = models.DateTimeField(
        null=True, blank=True, help_text="when the last list that lacked it began"
    )

    ask_failures = models.PositiveIntegerField(default=0)
    ask_after = models.DateTimeField(null=True, blank=True)
    flapping_since = models.DateTimeField(null=True, blank=True)
    changes_since = models.DateTimeField(
        null=True, blank=True, help_text="when the window began in which changes are counted"
    )
    changes_in_window = models.PositiveIntegerField(default=0, help_text="of the status")
    version = models.BigIntegerField(default=1, help_text="counts every write")
    revision = models.BigIntegerField(
        default=1, help_text="counts the writes that later decisions may depend on"
    )

    class Meta:
        # By the key: by its name every statement would join, and lock, the cluster too.
        ordering = ("cluster_id", "name")
        constraints = (
            models.UniqueConstraint("cluster", "name", name="instance_once_per_cluster"),
            models.CheckConstraint(
                condition=Q(status__in=[status.value for status in Status]),
                name="instance_status_is_of_the_api",
            ),
            models.CheckConstraint(
                condition=Q(observed_not_before__lte=models.F("observed_not_after")),
                name="instance_observed_in_order",
            ),
        )
        indexes = (
            models.Index(fields=("cluster", "confirmed_at"), name="instance_oldest_confirmed"),
        )

    def __str__(self) -> str:
        return f"{self.cluster.name}/{self.name}"

    @property
    def task_state(self) -> str:
        """The operation under way, or an empty string."""
        return self.operation if self.operation and not self.operation_end else ""

    @property
    def observed(self) -> Interval:
        """When the recorded state was read."""
        return Interval(self.observed_not_before, self.observed_not_after)


class Pass(models.Model):
    """One run of observe, decide, apply over a cluster or over one instance of it."""

    class Kind(models.TextChoices):
        SWEEP = "sweep"
        ALL = "all"
        REQUERY = "requery"
        FOLLOW = "follow"

    class State(models.TextChoices):
        REQUESTED = "requested"
        OPEN = "open"
        CLOSED = "closed"

    class Outcome(models.TextChoices):
        IN_SYNC = "in_sync"
        RECONCILED = "reconciled"
        FAILED = "failed"
        HELD = "held"

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="passes")
    kind = models.CharField(max_length=10, choices=Kind.choices)
    instance = models.CharField(max_length=255, blank=True)
    plan = models.BooleanField(default=False, help_text="names the changes, writes none")
    state = models.CharField(max_length=10, choices=State.choices, default=State.REQUESTED)
    outcome = models.CharField(max_length=10, choices=Outcome.choices, blank=True)
    requested_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    closed_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    looks = models.PositiveIntegerField(default=0)
    not_until = models.DateTimeField(null=True, blank=True)
    listed = models.PositiveIntegerField(default=0)
    suspects = models.PositiveIntegerField(default=0)
    relook_at = models.DateTimeField(
        null=True, blank=True, help_text="when a second list is to be taken for a proof"
    )
    findings = models.JSONField(
        default=list, help_text="what could not be read, is unknown to us or awaits proof"
    )
    planned = models.JSONField(default=list, help_text="the changes of a plan")
    stopped = models.PositiveIntegerField(
        default=0, help_text="instances that answers took from ACTIVE to STOPPED"
    )
    deleted = models.PositiveIntegerField(
        default=0, help_text="instances that answers took to DELETED"
    )
    error = models.TextField(blank=True)
    fingerprint = models.CharField(
        max_length=64, blank=True, help_text="of the mass change held, or let through"
    )

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("cluster",),
                condition=Q(state="open", kind__in=["sweep", "all"]),
                name="pass_one_open_sweep_per_cluster",
            ),
            models.CheckConstraint(
                condition=Q(state="closed") ^ Q(outcome=""), name="pass_closed_has_outcome"
            ),
        )
        indexes = (models.Index("cluster", "state", name="pass_of_cluster_by_state"),)

    def __str__(self) -> str:
        return f"{self.cluster.name} {self.kind} {self.pk}"


class Query(models.Model):
    """One instance to be asked about, from the wish to the reconciled answer."""

    class Lane(models.IntegerChoices):
        ON_DEMAND = 0
        SUSPECT = 1
        AUDIT = 2

    class State(models.TextChoices):
        PENDING = "pending"
        SUBMITTING = "submitting"
        SUBMITTED = "submitted"
        ANSWERED = "answered"
        DONE = "done"
        FAILED = "failed"

    IN_FLIGHT = (State.SUBMITTING, State.SUBMITTED)
    UNFINISHED = (State.PENDING, *IN_FLIGHT, State.ANSWERED)

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="queries")
    pass_of = models.ForeignKey(Pass, on_delete=models.CASCADE, related_name="queries")
    instance = models.CharField(max_length=255)
    lane = models.PositiveSmallIntegerField(choices=Lane.choices)
    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING)
    by_name = models.BooleanField(
        default=False, help_text="ask for the name (404 or not) instead of issuing a job"
    )
    job_id = models.BigIntegerField(null=True, blank=True)
    submitted_at = models.DateTimeField(null=True, blank=True)
    deadline = models.DateTimeField(null=True, blank=True)
    not_until = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    answer = models.JSONField(null=True, blank=True)
    changes = models.JSONField(default=list, help_text="what a plan would change")
    answered_at = models.DateTimeField(null=True, blank=True)
    rule = models.CharField(max_length=40, blank=True)
    error = models.TextField(blank=True)

    class Meta:
        ordering = ("lane", "id")
        constraints = (
            models.UniqueConstraint(
                fields=("cluster", "instance", "lane"),
                condition=Q(state="pending"),
                name="query_waits_once_per_lane",
            ),
            models.UniqueConstraint(
                fields=("cluster", "instance"),
                condition=Q(state__in=["submitting", "submitted"]),
                name="query_in_flight_once",
            ),
        )
        indexes = (
            models.Index(
                "cluster",
                "lane",
                "id",
                condition=Q(state__in=["pending", "submitting", "submitted", "answered"]),
                name="query_unfinished",
            ),
            models.Index("pass_of", "state", name="query_of_pass"),
        )

    def __str__(self) -> str:
        return f"{self.cluster.name}/{self.instance} {self.state}"


class Job(models.Model):
    """A job of the cluster's queue that is followed: open, or with a result not read yet."""

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="jobs")
    job_id = models.BigIntegerField()
    work = models.JSONField(default=list, help_text="pairs of operation and instance")
    is_query = models.BooleanField(default=False)
    has_ended = models.BooleanField(default=False)
    told = models.BooleanField(default=False, help_text="its instances show it")
    unstarted_at = models.DateTimeField(
        null=True, blank=True, help_text="when it was last known not to have begun"
    )
    seen_at = models.DateTimeField()

    class Meta:
        ordering = ("job_id",)
        constraints = (
            models.UniqueConstraint(fields=("cluster", "job_id"), name="job_once_per_cluster"),
        )

    def __str__(self) -> str:
        return f"{self.cluster.name} job {self.job_id}"


class Transition(models.Model):
    """One field of one instance changed: from what, to what, and on whose word."""

    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="transitions")
    pass_of = models.ForeignKey(
        Pass, on_delete=models.SET_NULL, null=True, blank=True, related_name="transitions"
    )
    field = models.CharField(max_length=30)
    before = models.JSONField(null=True, blank=True)
    after = models.JSONField(null=True, blank=True)
    backend_status = models.CharField(max_length=50, blank=True)
    rule = models.CharField(max_length=40)
    source = models.CharField(max_length=20)
    job_id = models.BigIntegerField(null=True, blank=True)
    at = models.DateTimeField()
    folded = models.PositiveIntegerField(
        default=0, help_text="further changes of a flapping instance that this one stands for"
    )

    class Meta:
        ordering = ("-id",)
        indexes = (models.Index(fields=("instance", "-at"), name="transition_of_instance"),)

    def __str__(self) -> str:
        return f"{self.instance} {self.field}: {self.before} -> {self.after}"
