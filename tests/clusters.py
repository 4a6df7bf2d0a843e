"""A Dask scheduler and a Ray cluster on this machine, each with two workers, in processes of their own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from aras.engines import Engine

LOOPBACK = "127.0.0.1"
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def environment(**more):
    """Return the environment of a worker: this repository is not on its path."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**own, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", **more}


def until(come, what, seconds=60):
    """Wait until `come` returns something, and return it."""
    end = time.monotonic() + seconds
    while not (found := come()):
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.05)
    return found


def children_of(pid):
    """Return the process ids of a process's children."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")  # a child is that of the thread that started it
    return [int(child) for thread in threads for child in thread.read_text().split()]


def command_of(pid):
    """Return the command line of a process, nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Dask:
    """A scheduler, and workers of one thread with nannies, which start them again."""

    def __init__(self, folder, workers=2, **more):
        self.folder = folder
        file = folder / "scheduler.json"
        self.scheduler = self.start("scheduler", "--host", LOOPBACK, "--port", 0, "--scheduler-file", file)
        self.address = json.loads(until(lambda: file.exists() and file.read_text(), "the scheduler"))["address"]
        self.engine = Engine("dask", self.address)
        self.options = ("--engine", "dask", "--scheduler", self.address)
        words = ("worker", self.address, "--host", LOOPBACK, "--nthreads", 1, "--local-directory", ".")
        self.nannies = [self.start(*words, **more) for _ in range(workers)]

    def start(self, *words, **more):
        command = [sys.executable, "-m", "dask", *words, "--dashboard-address", f"{LOOPBACK}:0", "--no-dashboard"]
        return subprocess.Popen(list(map(str, command)), cwd=self.folder, env=environment(**more), **QUIET)

    def workers(self):
        return [pid for nanny in self.nannies for pid in children_of(nanny.pid) if "spawn_main" in command_of(pid)]

    def kill_worker(self):
        """Kill a worker, which may be at work."""
        os.kill(until(self.workers, "a worker of Dask")[0], signal.SIGKILL)

    def stop(self):
        workers = self.workers()
        for process in (*self.nannies, self.scheduler):
            process.kill()
            process.wait()
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Ray:
    """A node with two processors, and nothing of it in the place where an ordinary Ray of this machine would be."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # sockets have short paths
        ports = [free_port() for _ in range(5)]
        names = ("--port", "--ray-client-server-port", "--dashboard-agent-listen-port", "--dashboard-port")
        names += ("--metrics-export-port",)
        options = ("--num-cpus", 2, "--object-store-memory", 80_000_000, "--include-dashboard=false", "--block")
        options += ("--disable-usage-stats", "--temp-dir", self.folder, "--node-ip-address", LOOPBACK)
        options += tuple(word for pair in zip(names, ports, strict=True) for word in pair)
        command = [Path(sys.executable).with_name("ray"), "start", "--head", *options]
        self.node = subprocess.Popen(list(map(str, command)), cwd=self.folder, env=environment(), **QUIET)
        self.address = f"{LOOPBACK}:{ports[0]}"
        self.engine = Engine("ray", self.address)
        self.options = ("--engine", "ray", "--address", self.address)
        self.raylet = until(self.find_raylet, "Ray")

    def processes(self):
        """Return the ids of all of its processes that tell its folder."""
        found = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in found if str(self.folder) in command_of(pid)]

    def find_raylet(self):
        return next((pid for pid in self.processes() if "raylet/raylet " in command_of(pid)), None)

    def kill_worker(self):
        """Kill a worker that is at work; Ray starts another one."""
        os.kill(until(self.at_work, "a worker of Ray", 10)[0], signal.SIGKILL)

    def at_work(self):
        return [pid for pid in children_of(self.raylet) if command_of(pid).startswith("ray::call")]

    def stop(self):
        """Kill all: it has nothing to lose, and takes long to end by itself."""
        agents = children_of(self.raylet)
        self.node.kill()
        self.node.wait()
        for pid in {*agents, *self.processes()}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port():
    """Return a port that nobody listened at."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


@contextmanager
def cluster(kind, folder):
    """Start a cluster, and stop it however the body ends."""
    started = Dask(folder) if kind == "dask" else Ray()
    try:
        yield started
    finally:
        started.stop()
