"""Clusters, their instances, every change of state, and what is wanted right now.

Each row is a level: it says what is so, not what happened. All times are on the one clock of
``proj.clock``, and belong to their cluster's epoch: where ``epoch`` differs from the cluster's,
the clock has jumped since, and the row's moments are older than all of this epoch. Only
``proj.reconcile.record`` writes the state of an instance.
"""

import secrets
from datetime import datetime
from uuid import uuid4

from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q

from proj.names import CLUSTER_NAME
from proj.observation import Interval, Status


def new_generation() -> str:
    """Return a value that no other database has."""
    return secrets.token_hex(8)


class Installation(models.Model):
    """What is true of the whole database: one row."""

    generation = models.CharField(
        max_length=32, default=new_generation, help_text="another after a restore from a backup"
    )

    def __str__(self) -> str:
        return self.generation


class UnknownPolicy(models.TextChoices):
    """What to do with an instance that Ganeti has and we never heard of."""

    ADOPT = "adopt"
    REPORT = "report"


class Cluster(models.Model):
    """A Ganeti cluster: how to reach it, how hard to press it, and how it has answered."""

    name = models.CharField(max_length=100, unique=True, validators=[RegexValidator(CLUSTER_NAME)])
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

    epoch = models.PositiveIntegerField(
        default=0, help_text="raised when the clock jumps or the database is another"
    )
    generation = models.CharField(max_length=32, blank=True, help_text="of the database, as known")
    moment = models.DateTimeField(null=True, blank=True, help_text="of the last turn of any kind")
    version = models.BigIntegerField(default=1, help_text="counts the turns")

    # LOOK
    pace = models.FloatField(
        null=True, blank=True, help_text="seconds between two looks: faster while things change"
    )
    next_look_at = models.DateTimeField(null=True, blank=True)
    look_until = models.DateTimeField(
        null=True, blank=True, help_text="until when the present look owns this cluster"
    )
    look_token = models.CharField(max_length=16, blank=True)
    looks = models.PositiveIntegerField(default=0, help_text="each tenth compares in full")
    looked_not_before = models.DateTimeField(
        null=True, blank=True, help_text="when the last complete list was asked for"
    )
    looked_not_after = models.DateTimeField(null=True, blank=True)
    listed = models.PositiveIntegerField(default=0, help_text="records of the last list")
    agreed_digest = models.CharField(
        max_length=64, blank=True, help_text="of the last list that agreed with every row"
    )
    agreed_revisions = models.BigIntegerField(default=0, help_text="of the rows, when it did")
    findings = models.JSONField(
        default=list,
        blank=True,
        help_text="what the last list had that cannot be read or is not known to us",
    )
    failures = models.PositiveIntegerField(default=0, help_text="looks that failed in a row")
    listed_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="when a list was last read, whole or not",
    )

    # FEED
    feed_after = models.BigIntegerField(
        null=True, blank=True, help_text="every job up to this one has been seen"
    )
    feed_gap_since = models.DateTimeField(
        null=True, blank=True, help_text="since when the job after that is missing"
    )
    feeds = models.PositiveIntegerField(default=0, help_text="each tenth reads all open jobs")
    next_follow_at = models.DateTimeField(null=True, blank=True)
    follow_until = models.DateTimeField(
        null=True, blank=True, help_text="until when the present reading of the queue owns it"
    )
    follow_token = models.CharField(max_length=16, blank=True)
    followed_since = models.DateTimeField(
        null=True, blank=True, help_text="since when no job can have come and gone unseen"
    )
    read_not_before = models.DateTimeField(
        null=True, blank=True, help_text="when the last reading of the queue was asked for"
    )
    read_not_after = models.DateTimeField(null=True, blank=True)
    follow_failures = models.PositiveIntegerField(default=0, help_text="readings that failed")
    unreadable_jobs = models.PositiveIntegerField(default=0, help_text="of the last reading")

    # ASK
    await_until = models.DateTimeField(
        null=True, blank=True, help_text="until when a chain of polls is known to be alive"
    )
    await_token = models.CharField(max_length=16, blank=True)
    asked = models.BigIntegerField(default=0, help_text="jobs issued: gives each priority a share")
    asked_at = models.DateTimeField(null=True, blank=True, help_text="when a step last succeeded")
    audit_tokens = models.FloatField(default=0, help_text="jobs that the audit may spend now")
    audit_at = models.DateTimeField(null=True, blank=True, help_text="when they were counted")
    ask_failures = models.PositiveIntegerField(default=0, help_text="steps that failed in a row")
    next_ask_at = models.DateTimeField(null=True, blank=True, help_text="backoff of the steps")

    settled_at = models.DateTimeField(null=True, blank=True, help_text="when an answer last was")
    set_aside = models.BigIntegerField(
        default=0, help_text="items that could not be read or written, and were forgotten"
    )
    last_error = models.TextField(blank=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    @property
    def is_failing(self) -> bool:
        """Whether the last request of any kind failed: the next one is to be a cheap one."""
        return bool(self.failures or self.follow_failures or self.ask_failures)

    @property
    def looked(self) -> Interval | None:
        """When the last complete list was read."""
        return _interval(self.looked_not_before, self.looked_not_after)

    @property
    def read(self) -> Interval | None:
        """When the queue was last read."""
        return _interval(self.read_not_before, self.read_not_after)


class Instance(models.Model):
    """The last known state of one instance.

    Its identity is Ganeti's uuid; one that Ganeti has not shown yet, or a Ganeti too old to have
    any, has none, and is known by its name. The name is a field like others.
    """

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="instances")
    uuid = models.CharField(max_length=36, null=True, blank=True)
    api_id = models.UUIDField(
        default=uuid4,
        db_index=True,
        help_text="what the API calls it: Ganeti's uuid, or, where it had none, its own for ever",
    )
    name = models.CharField(max_length=255)
    status = models.CharField(max_length=12, choices=[(it.value, it.value) for it in Status])
    backend_status = models.CharField(
        max_length=50, blank=True, help_text="Ganeti's word; none for one that it never showed"
    )
    memory = models.PositiveIntegerField(null=True, blank=True, help_text="MiB")
    vcpus = models.PositiveIntegerField(null=True, blank=True)
    disks = models.JSONField(null=True, blank=True, help_text="sizes in MiB")
    nics = models.JSONField(null=True, blank=True)
    nodes = models.JSONField(null=True, blank=True, help_text="primary first")
    os = models.CharField(max_length=255, null=True, blank=True)
    tags = models.JSONField(null=True, blank=True, help_text="told by lists only")

    epoch = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(help_text="when it was first recorded")
    observed_not_before = models.DateTimeField()
    observed_not_after = models.DateTimeField()
    confirmed_at = models.DateTimeField(
        null=True, blank=True, help_text="begin of the last answer of a query job about it"
    )
    audited_at = models.DateTimeField(
        null=True, blank=True, help_text="when it last had its turn, answered or not"
    )
    stale_before = models.DateTimeField(
        null=True, blank=True, help_text="a job on it ended then: what was read before is void"
    )

    differs = models.JSONField(
        default=dict, blank=True, help_text="what the last lists said where it is not as recorded"
    )
    differs_since = models.DateTimeField(null=True, blank=True)
    missing_first = models.DateTimeField(
        null=True, blank=True, help_text="when the first list that lacked it was asked for"
    )
    missing_last = models.DateTimeField(null=True, blank=True, help_text="when the last one was")

    flapping_since = models.DateTimeField(null=True, blank=True)
    changes_since = models.DateTimeField(
        null=True, blank=True, help_text="when the window began in which changes are counted"
    )
    changes_in_window = models.PositiveIntegerField(default=0, help_text="of the status")
    revision = models.BigIntegerField(
        default=1, help_text="counts the writes that later decisions may depend on"
    )

    class Meta:
        # By the key: by its name every statement would join, and lock, the cluster too.
        ordering = ("cluster_id", "name")
        constraints = (
            models.UniqueConstraint("cluster", "uuid", name="instance_once_per_cluster"),
            models.UniqueConstraint(
                fields=("cluster", "name"),
                condition=Q(uuid=None) & ~Q(status="DELETED"),
                name="instance_without_uuid_once_per_name",
            ),
            models.CheckConstraint(
                condition=Q(status__in=[status.value for status in Status]),
                name="instance_status_is_of_the_api",
            ),
            models.CheckConstraint(
                condition=Q(observed_not_before__lte=models.F("observed_not_after")),
                name="instance_observed_in_order",
            ),
            models.CheckConstraint(
                condition=~Q(status="DELETED") | Q(backend_status=""),
                name="instance_gone_has_no_word",
            ),
        )
        indexes = (
            models.Index(fields=("cluster", "name"), name="instance_by_name"),
            models.Index(fields=("cluster", "revision"), name="instance_revisions"),
            models.Index(fields=("cluster", "audited_at"), name="instance_oldest_audited"),
            models.Index(
                fields=("cluster",),
                condition=Q(differs_since__isnull=False) | Q(missing_first__isnull=False),
                name="instance_that_differs",
            ),
        )

    def __str__(self) -> str:
        return f"{self.cluster.name}/{self.name}"

    @property
    def observed(self) -> Interval:
        """When the recorded state was read."""
        return Interval(self.observed_not_before, self.observed_not_after)


class Job(models.Model):
    """The mirror of one job in the cluster's queue: open, or ended and not yet passed by.

    Without a job id it is an operation that a host system announced and no reading has shown.
    """

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="jobs")
    job_id = models.BigIntegerField(null=True, blank=True)
    state = models.CharField(max_length=10)
    work = models.JSONField(
        default=list, help_text="triples of instance, operation and status, as last read"
    )
    names = models.JSONField(default=list, help_text="every name that it ever was seen with")
    uuids = models.JSONField(default=list, help_text="of the instances that bore them")
    is_query = models.BooleanField(default=False)
    is_ours = models.BooleanField(default=False, help_text="it holds a seat until it has ended")
    announced = models.BooleanField(default=False, help_text="by a host system, and not seen yet")

    epoch = models.PositiveIntegerField(default=0)
    seen_first = models.DateTimeField(help_text="end of the reading that first showed it")
    seen_last = models.DateTimeField(help_text="begin of the last reading that showed it")
    running_since = models.DateTimeField(
        null=True, blank=True, help_text="end of the reading that first showed it running"
    )
    unstarted_at = models.DateTimeField(
        null=True, blank=True, help_text="when it was last known not to have begun"
    )

    class Meta:
        ordering = ("job_id",)
        constraints = (models.UniqueConstraint("cluster", "job_id", name="job_once_per_cluster"),)

    def __str__(self) -> str:
        return f"{self.cluster.name} job {self.job_id}"


class Priority(models.IntegerChoices):
    """How urgent a question is."""

    ON_DEMAND = 0
    SUSPECT = 1
    AUDIT = 2


class Question(models.Model):
    """One instance that somebody wants evidence about: the work queue, one row for each.

    Known by the uuid, or by the name where no uuid is known.
    """

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="questions")
    uuid = models.CharField(max_length=36, null=True, blank=True)
    name = models.CharField(max_length=255, help_text="to be asked for")
    priority = models.PositiveSmallIntegerField(choices=Priority.choices)
    epoch = models.PositiveIntegerField(default=0)
    wanted_since = models.DateTimeField()
    newer_than = models.DateTimeField(help_text="evidence that began before does not satisfy it")
    listed = models.JSONField(
        null=True, blank=True, help_text="what lists say of one that is not recorded, since when"
    )

    token = models.CharField(max_length=16, blank=True, help_text="of who has claimed it")
    claimed_at = models.DateTimeField(null=True, blank=True)
    unstarted_at = models.DateTimeField(
        null=True, blank=True, help_text="when its job was last known not to have begun"
    )
    job_id = models.BigIntegerField(null=True, blank=True)
    answer = models.JSONField(null=True, blank=True, help_text="evidence that waits for SETTLE")
    attempts = models.PositiveIntegerField(default=0)
    retry_at = models.DateTimeField(null=True, blank=True)
    overridden_at = models.DateTimeField(
        null=True, blank=True, help_text="when somebody last had it asked before its time"
    )
    error = models.TextField(blank=True, help_text="why the last attempt brought no evidence")

    class Meta:
        ordering = ("priority", "attempts", "wanted_since", "id")
        constraints = (
            models.UniqueConstraint("cluster", "uuid", name="question_once_per_uuid"),
            models.UniqueConstraint(
                fields=("cluster", "name"),
                condition=Q(uuid=None),
                name="question_once_per_name",
            ),
        )
        indexes = (
            models.Index(
                fields=("cluster", "priority", "attempts", "wanted_since"), name="question_order"
            ),
            models.Index(fields=("cluster", "job_id"), name="question_of_job"),
        )

    def __str__(self) -> str:
        return f"{self.cluster.name}/{self.name}"

    def begun_at(self, at: datetime) -> datetime | None:
        """Return when its job begins at the earliest; None while nobody has claimed it.

        What lies ahead of ``at`` was dated by another clock.
        """
        claimed, unstarted = self.claimed_at, self.unstarted_at
        if claimed is None or unstarted is None or unstarted > at:
            return claimed
        return max(claimed, unstarted)


class Request(models.Model):
    """Somebody's wish that an instance, or a whole cluster, be confirmed."""

    class Kind(models.TextChoices):
        SWEEP = "sweep"
        ALL = "all"
        INSTANCE = "instance"
        PLAN = "plan"

    class State(models.TextChoices):
        OPEN = "open"
        CLOSED = "closed"

    class Outcome(models.TextChoices):
        IN_SYNC = "in_sync"
        RECONCILED = "reconciled"
        FAILED = "failed"
        HELD = "held"

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="requests")
    kind = models.CharField(max_length=10, choices=Kind.choices)
    name = models.CharField(max_length=255, blank=True, help_text="one instance, or all")
    uuid = models.CharField(max_length=36, null=True, blank=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.OPEN)
    outcome = models.CharField(max_length=10, choices=Outcome.choices, blank=True)
    epoch = models.PositiveIntegerField(default=0)
    requested_at = models.DateTimeField(help_text="only evidence that began after it confirms")
    scoped_at = models.DateTimeField(
        null=True, blank=True, help_text="end of the first complete list after it"
    )
    absent_at = models.DateTimeField(
        null=True, blank=True, help_text="begin of the evidence that nobody has this name"
    )
    blocked_since = models.DateTimeField(
        null=True, blank=True, help_text="since when nothing that is left can be confirmed"
    )
    closed_at = models.DateTimeField(null=True, blank=True)
    listed = models.PositiveIntegerField(default=0)
    suspects = models.PositiveIntegerField(default=0)
    queried = models.PositiveIntegerField(default=0, help_text="confirmed by a query job")
    unconfirmed = models.JSONField(default=list, help_text="which instances were not, and why")
    planned = models.JSONField(default=list, help_text="the changes of a plan")
    first_transition = models.BigIntegerField(default=0, help_text="the last one before it")
    last_transition = models.BigIntegerField(null=True, blank=True)
    error = models.TextField(blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=Q(state="closed") ^ Q(outcome=""), name="request_closed_has_outcome"
            ),
            models.CheckConstraint(
                condition=Q(kind="plan")
                | (Q(kind="instance") & ~Q(name=""))
                | (Q(kind__in=("sweep", "all"), name="", uuid=None)),
                name="request_names_what_it_is_about",
            ),
        )
        indexes = (models.Index("cluster", "state", name="request_of_cluster_by_state"),)

    def __str__(self) -> str:
        return f"{self.cluster.name} {self.kind} {self.pk}"


class Hold(models.Model):
    """A mass change that waits for an operator: which instances, from what to what."""

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="holds")
    digest = models.CharField(max_length=64, help_text="names exactly these entries")
    entries = models.JSONField(help_text="[key, name, from, to] of each instance")
    reason = models.TextField()
    epoch = models.PositiveIntegerField(default=0)
    since = models.DateTimeField()
    seen_at = models.DateTimeField(help_text="when a look last found just this")
    current = models.BooleanField(default=True, help_text="the last look found it")
    approved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (models.UniqueConstraint("cluster", "digest", name="hold_once_per_content"),)

    def __str__(self) -> str:
        return f"{self.cluster.name} hold {self.pk}"


class Transition(models.Model):
    """One field of one instance changed: from what, to what, and on whose word."""

    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="transitions")
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
        indexes = (
            models.Index(fields=("instance", "-at"), name="transition_of_instance"),
            models.Index(fields=("at",), name="transition_by_time"),
        )

    def __str__(self) -> str:
        return f"{self.instance} {self.field}: {self.before} -> {self.after}"


def _interval(begun: datetime | None, ended: datetime | None) -> Interval | None:
    if begun is None or ended is None or ended < begun:
        return None
    return Interval(begun, ended)
