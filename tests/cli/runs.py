"""Runs of the real command line on digits, small enough for a second or two each."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from locations import REPOSITORY
from orthostream.cli import guarded

SMALL = (
    "demo",
    "model.embed_dim=16",
    "model.depth=2",
    "model.num_heads=2",
    "connection=orthogonal",
    "train.epochs=2",
    "train.batch_size=64",
    "log.interval=5",
    "log.progress=lines",
    "checkpoint.every_steps=7",
)
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "PYTHONUNBUFFERED": "1",
}


def command(*arguments, ranks=1):
    """The command line, by torchrun where there are several ranks."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [*launcher, "-m", "orthostream.cli", *map(str, arguments)]


def orthostream(*arguments, ranks=1, expect=0, folder=None):
    """Output of a finished call; its exit code is checked."""
    done = subprocess.run(
        command(*arguments, ranks=ranks),
        env=ENVIRONMENT,
        cwd=folder or REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == expect, f"code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def in_this_process(verb, capsys):
    """``call(*words, expect=0)``: all output of a verb of the command line, run without a new process."""

    def call(*words, expect=0):
        parser = argparse.ArgumentParser()
        verb.add_arguments(parser)
        code = guarded(lambda: verb.run(parser.parse_args([str(word) for word in words])))
        captured = capsys.readouterr()
        assert code == expect, captured.out + captured.err
        return captured.out + captured.err

    return call


def start(*arguments, ranks=1):
    """A call left running in a process group of its own."""
    return subprocess.Popen(
        command(*arguments, ranks=ranks),
        env=ENVIRONMENT,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, process, seconds=90):
    """Poll until a condition holds; the process must not end before."""
    begun = time.monotonic()
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() - begun < seconds, "waited too long"
        time.sleep(0.002)


def kill(process):
    """kill -9 the whole process group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def newest(run: Path) -> Path:
    """The newest finished checkpoint folder of a run."""
    return max(path for path in (run / "checkpoints").glob("step-*") if ".tmp-" not in path.name)


def weights(run: Path) -> bytes:
    return (newest(run) / "model.safetensors").read_bytes()


def rows(run: Path):
    """Rows of the log without times."""
    read = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "train/samples_per_sec"} for row in read]
