"""The engine over one cluster of the world, driven by the test instead of by workers.

The one place that knows how the turns are called. What a turn would send to the broker is left
in ``messages``: the test delivers, loses, doubles or delays it.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from proj.backend import Backend
from proj.ganeti.states import ENDS_ONLY, JOB_BLIND, LIST_ONLY, TOLD_BY_LISTS
from proj.inventory.models import Cluster, Hold, Request, UnknownPolicy
from proj.reconcile import (
    announce,
    ask,
    feed,
    holds,
    housekeeping,
    look,
    memo,
    plan,
    requests,
    settle,
)
from proj.reconcile.ask import Answered, Step
from proj.reconcile.brake import Limits
from proj.reconcile.context import Context
from proj.reconcile.decide import Policy
from proj.reconcile.look import After
from proj.reconcile.settings import Tuning
from tests.world.dying import Mortality
from tests.world.world import World

FREE = Limits(deleted_share=1.0, stopped_share=1.0)
"""A brake that holds nothing but an empty list."""


def plain_policy() -> Policy:
    """Return rules for a backend that has no words of its own."""
    return Policy(timedelta(seconds=60), timedelta(seconds=10), timedelta(seconds=120))


def ganeti_policy() -> Policy:
    """Return the rules by which instances of a Ganeti are decided."""
    return replace(
        plain_policy(),
        list_only=LIST_ONLY,
        ends_only=ENDS_ONLY,
        job_blind=JOB_BLIND,
        list_fields=TOLD_BY_LISTS,
    )


HOUSEKEEPING_EACH = timedelta(seconds=10)
"""As in the beat's schedule."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a turn sent: which turn is to be taken next, and about what."""

    turn: str
    arguments: tuple[object, ...] = ()


@dataclass
class Engine:
    """The engine over one cluster."""

    world: World
    name: str = "alpha"
    tuning: Tuning = field(default_factory=lambda: Tuning(limits=FREE))
    policy: Policy = field(default_factory=ganeti_policy)
    messages: list[Message] = field(default_factory=list)
    mortality: Mortality = field(init=False)
    kept_house_at: datetime | None = None

    def __post_init__(self) -> None:
        self.mortality = Mortality(self.world)

    @property
    def cluster(self) -> Cluster:
        """The cluster's row, as it is now."""
        return Cluster.objects.get(name=self.name)

    def add_cluster(self, **values: object) -> Cluster:
        """Add the cluster's row."""
        made = {
            "host": "h", "user": "u", "password_source": "env:X", "insecure": True,
            "confirm_max_age": timedelta(hours=24),
        }  # fmt: skip
        return Cluster.objects.create(name=self.name, **(made | values))

    @property
    def context(self) -> Context:
        """What every turn works with."""
        return Context(self._connect, self._policy_of, self.tuning, self.world.clock)

    # Turns

    def look(self) -> None:
        """LOOK, where one is due."""
        self._live(lambda: self._looked(look.look(self.name, self.context)))

    def look_now(self) -> None:
        """LOOK, whether or not one is due."""
        Cluster.objects.filter(name=self.name).update(next_look_at=None)
        self.look()

    def feed(self) -> None:
        """FEED, where one is due."""
        self._live(lambda: self._asked(feed.follow(self.name, self.context)))

    def feed_now(self) -> None:
        """FEED, whether or not one is due."""
        Cluster.objects.filter(name=self.name).update(next_follow_at=None)
        self.feed()

    def ask(self) -> None:
        """ASK: begin a chain, or issue what may go."""
        self._live(lambda: self._stepped(ask.issue(self.name, self.context, self.told)))

    def step(self, token: str) -> None:
        """ASK: go on with a chain."""
        self._live(lambda: self._stepped(ask.step(self.name, token, self.context, self.told)))

    def settle(self, key: int) -> None:
        """SETTLE one question that was answered, and what waits with it."""

        def settled() -> None:
            done = settle.settle(self.name, key, self.context)
            if done.waiting is not None:
                self._send("settle", done.waiting.pk)
            self._asked(done.ask)

        self._live(settled)

    def plan(self) -> None:
        """Answer those who wait for a plan."""
        self._live(lambda: plan.plan(self.name, self.context))

    def request(self, kind: str = "sweep") -> None:
        """Somebody wishes the whole cluster to be confirmed, or wants a plan."""

        def request() -> None:
            with suppress(requests.TooMany):
                requests.request_cluster(
                    self.cluster, kind=Request.Kind(kind), tuning=self.tuning, at=self._now()
                )

        self._live(request)
        self._send("plan" if kind == "plan" else "look")

    def request_instance(self, name: str) -> None:
        """Somebody wishes an instance to be confirmed."""

        def request() -> None:
            with suppress(requests.TooMany, ValueError):
                requests.request_instance(self.cluster, name, tuning=self.tuning, at=self._now())

        self._live(request)
        self._send("ask")

    def announce(self, name: str, operation: str, job_id: int | None = None) -> None:
        """A host system says that it has begun something."""

        def announced() -> None:
            cluster = self.cluster
            with suppress(ValueError, requests.Removed):
                announce.announce(
                    cluster, name, action=operation, job_id=job_id,
                    policy=self._policy_of(cluster), tuning=self.tuning, at=self._now(),
                )  # fmt: skip

        self._live(announced)

    def approve(self) -> None:
        """An operator approves every hold that is not approved."""

        def approve() -> None:
            for hold in Hold.objects.filter(cluster__name=self.name, approved_at=None):
                with suppress(holds.CannotBeApproved):
                    holds.approve(hold, self.tuning, at=self._now())

        self._live(approve)

    def housekeeping(self) -> None:
        """Forget what is over."""
        keep = timedelta(days=14)
        self._live(lambda: housekeeping.keep_house(self.context, keep=keep))

    # Beat, broker and processes

    def beat(self) -> None:
        """Take what beat would find due, and deliver every message once."""
        at = self._now()
        last = self.kept_house_at
        if last is None or not last <= at < last + HOUSEKEEPING_EACH:
            self.kept_house_at = at
            self.housekeeping()
        if self.name in feed.due(self.tuning, at=at):
            self.feed()
        if self.name in look.due(self.tuning, at=at):
            self.look()
        if self.name in ask.due(self.tuning, at=at):
            self.ask()
        self.deliver()

    def deliver(self, most: int = 100) -> None:
        """Deliver messages, and those that they cause; a chain takes one step."""
        later = []
        for _ in range(most):
            if not self.messages:
                break
            message = self.messages.pop(0)
            steps = len(self.messages)
            self.take(message)
            later += [it for it in self.messages[steps:] if it.turn == "step"]
            self.messages[steps:] = [it for it in self.messages[steps:] if it.turn != "step"]
        self.messages += later

    def take(self, message: Message) -> None:
        """Take the turn that a message is about."""
        turns: dict[str, Callable[..., None]] = {
            "look": self.look, "follow": self.feed, "ask": self.ask, "step": self.step,
            "settle": self.settle, "plan": self.plan,
        }  # fmt: skip
        turns[message.turn](*message.arguments)

    def restart(self) -> None:
        """Let every process begin anew; messages stay in the broker."""
        memo.forget()

    def _now(self) -> datetime:
        return self.world.clock()

    def _send(self, turn: str, *arguments: object) -> None:
        self.messages.append(Message(turn, arguments))

    def _live(self, turn: Callable[[], object]) -> None:
        with self.mortality.living():
            turn()

    def _looked(self, after: After) -> None:
        self._asked(after.ask)
        if after.follow:
            self._send("follow")

    def _asked(self, is_asked: bool) -> None:
        if is_asked:
            self._send("ask")

    def told(self, answered: Sequence[Answered]) -> None:
        """Send a message for each answer."""
        for it in answered:
            self._send("settle", it.key)

    def _stepped(self, step: Step) -> None:
        self.told(step.answered)
        if step.token is not None:
            self._send("step", step.token)

    def _connect(self, cluster: Cluster) -> Backend:
        return self.world.backend()

    def _policy_of(self, cluster: Cluster) -> Policy:
        return replace(self.policy, adopt=cluster.unknown == UnknownPolicy.ADOPT)
