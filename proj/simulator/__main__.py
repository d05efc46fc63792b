"""Run simulated clusters until interrupted; ``--drift`` changes them all the time."""

import argparse
import random
import signal
import threading
from pathlib import Path

from proj.simulator.server import Cluster, Simulator


def main() -> None:
    """Serve the clusters that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m proj.simulator", description=__doc__)
    parser.add_argument("--clusters", type=int, default=3)
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--dir", type=Path, default=Path("var/simulator"))
    parser.add_argument(
        "--job-seconds", type=float, default=0.3, metavar="S", help="how long a job takes"
    )
    parser.add_argument(
        "--drift", type=float, default=0.0, metavar="S", help="seconds between two changes"
    )
    options = parser.parse_args()
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with Simulator(
        options.dir,
        clusters=options.clusters,
        instances=options.instances,
        job_seconds=options.job_seconds,
    ) as simulator:
        print(f"{len(simulator.clusters)} clusters: {options.dir}/clusters.json", flush=True)
        while not stopped.wait(options.drift or None):
            print(drift(random.choice(list(simulator))), flush=True)


def drift(cluster: Cluster) -> str:
    """Change something of a cluster behind everybody's back, and say what."""
    truth = cluster.truth
    instance = random.choice(list(truth.instances.values()))
    match random.randrange(4):
        case 0 if instance.running_on:
            truth.crash(instance.name)
            done = "crashed"
        case 1:
            truth.stop(instance.name)
            done = "was stopped"
        case 2:
            truth.change(instance.name, memory=random.choice((1024, 2048, 4096)))
            done = f"has {instance.memory} MiB"
        case _:
            truth.start(instance.name)
            done = "was started"
    return f"{instance.name} {done}"


if __name__ == "__main__":
    main()
