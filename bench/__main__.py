"""Run the benchmarks: ``python -m bench [PART]...``; see ``make bench``."""

import argparse
import os
import tempfile
from pathlib import Path

PARTS = ("looks", "fleets", "tasks", "rest", "real")


def main() -> None:
    """Run the parts that the command line names, all by default."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["VAR_DIR"] = str(folder / "var")
        from bench.servers import servers

        with servers(folder):
            import django

            django.setup()
            run(options.parts or list(PARTS), folder)


def run(parts: list[str], folder: Path) -> None:
    """Measure, keep what was measured, and show it."""
    from django.core.management import call_command

    from bench import fleets, looks, real, rest, tasks
    from bench.figures import keep
    from proj.celery import collect_seldom

    call_command("migrate", verbosity=0)
    # As in a worker, or the baseline would pay for the collector and the service would not.
    collect_seldom()
    measures = {
        "looks": looks.stable_looks,
        "fleets": fleets.fleets,
        "tasks": tasks.reconcile_tasks,
        "rest": rest.at_rest,
        "real": real.on_a_real_cluster,
    }
    for part in parts:
        keep(measures[part](folder / part))


if __name__ == "__main__":
    main()
