"""The bulk road and the one-instance road decide the same on the same input."""

from itertools import product

import pytest

from proj.ganeti.states import STATUS_OF_WORD
from proj.inventory.models import Instance, Pass
from tests.reconcile.conftest import Engine, make_engine

pytestmark = pytest.mark.django_db(transaction=True)

WORDS = sorted(STATUS_OF_WORD)
PAIRS = list(product(WORDS, WORDS))


def prepared(name: str) -> Engine:
    """Return an engine with one instance for each pair of words, recorded with the first."""
    engine = make_engine(name)
    engine.backend.truth = {f"vm{n}": before for n, (before, _) in enumerate(PAIRS)}
    engine.run(Pass.Kind.ALL)
    engine.run()
    for n, (_, after) in enumerate(PAIRS):
        engine.backend.truth[f"vm{n}"] = after
    return engine


def rows(engine: Engine) -> dict[str, tuple[str, str]]:
    found = Instance.objects.filter(cluster=engine.cluster)
    return {row.name: (row.status, row.backend_status) for row in found}


def test_a_pass_over_all_and_a_request_for_each_end_alike() -> None:
    bulk, single = prepared("bulk"), prepared("single")
    assert rows(bulk) == rows(single)
    bulk.run(Pass.Kind.ALL)
    for name in single.backend.truth:
        single.ask(name)
    single.settle()
    bulk.run()
    single.run()
    assert rows(bulk) == rows(single)
