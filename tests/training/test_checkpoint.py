"""Checkpoints exist whole or not at all, and what was changed on disk is noticed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from orthostream.training import checkpoint as checkpoints
from orthostream.training.checkpoint import CheckpointError


def write(root, step, value=0.0, epochs_done=None):
    return checkpoints.save(
        root,
        checkpoints.name_of(step, epochs_done),
        weights={"weight": torch.full((64, 64), value), "count": torch.tensor(3)},
        average=None,
        state={"position": {"step": step}, "generators": [{"torch": torch.get_rng_state()}]},
        details={"step": step},
    )


def test_a_round_trip_returns_every_tensor(tmp_path):
    path = write(tmp_path, 7, 2.5)
    read = checkpoints.load(path)
    assert torch.equal(read.weights["weight"], torch.full((64, 64), 2.5))
    assert read.weights["count"].dtype is torch.int64
    assert read.state["position"] == {"step": 7}
    assert torch.equal(read.state["generators"][0]["torch"], torch.get_rng_state())
    assert read.average is None and read.manifest["step"] == 7


def test_names_sort_by_age():
    names = [checkpoints.name_of(*at) for at in [(9, None), (10, None), (10, 1), (11, None), (100, 10)]]
    assert names == sorted(names)


def test_the_newest_valid_one_is_found_and_stumps_are_removed(tmp_path):
    old, new = write(tmp_path, 1), write(tmp_path, 2)
    stump = tmp_path / "step-00000003.tmp-abc"
    stump.mkdir()
    (new / "manifest.json").unlink()
    found, notes = checkpoints.newest(tmp_path)
    assert found is not None and found.path == old
    assert not stump.exists()
    assert any("no manifest" in note for note in notes) and any("killed" in note for note in notes)


def test_a_flipped_byte_is_noticed(tmp_path):
    path = write(tmp_path, 1)
    file = path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"sha256 of model\.safetensors differs"):
        checkpoints.load(path)


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_a_cut_file_is_noticed_with_both_sizes(tmp_path, cut):
    path = write(tmp_path, 1)
    file = path / "state.pt"
    data = file.read_bytes()
    file.write_bytes(data[:cut])
    with pytest.raises(CheckpointError, match=rf"state.pt has {cut} bytes instead of {len(data)}"):
        checkpoints.load(path)


def test_code_in_a_pickle_is_refused_even_with_a_fitting_manifest(tmp_path):
    class Attack:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'executed'}",))

    path = write(tmp_path, 1)
    torch.save(Attack(), path / "state.pt")
    data = (path / "state.pt").read_bytes()
    manifest = json.loads((path / "manifest.json").read_text())
    import hashlib

    manifest["files"]["state.pt"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises((CheckpointError, Exception), match=r"(?i)weights.only|cannot be read"):
        checkpoints.load(path)
    assert not (tmp_path / "executed").exists()


def test_pruning_keeps_the_newest_and_the_spared(tmp_path):
    paths = [write(tmp_path, step) for step in (1, 2, 3, 4)]
    checkpoints.prune(tmp_path, 2, [paths[0].name])
    assert checkpoints.saved(tmp_path) == [paths[0], paths[2], paths[3]]


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    old = write(tmp_path, 1)

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_flushed", full)
    with pytest.raises(CheckpointError, match=r"full: a checkpoint needs .* MB and .* MB are free"):
        write(tmp_path, 2)
    assert checkpoints.saved(tmp_path) == [old]
    assert not list(tmp_path.glob("*.tmp-*"))
    checkpoints.load(old)


def test_pointers_are_replaced_whole(tmp_path):
    first, second = write(tmp_path, 1), write(tmp_path, 2)
    checkpoints.point(tmp_path, "best.json", first, {"val/acc@1": 0.5})
    checkpoints.point(tmp_path, "best.json", second, {"val/acc@1": 0.6})
    assert checkpoints.pointed(tmp_path, "best.json") == second
    assert checkpoints.pointed(tmp_path, "latest.json") is None


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.06, 0.1, 0.15])
def test_a_kill_while_saving_leaves_a_loadable_checkpoint(tmp_path, delay):
    writer = textwrap.dedent("""
        import sys, torch
        from pathlib import Path
        from orthostream.training import checkpoint as checkpoints
        root = Path(sys.argv[1])
        for step in range(1, 10000):
            weights = {"weight": torch.full((256, 256), float(step))}
            checkpoints.save(root, checkpoints.name_of(step, None), weights=weights, average=None,
                             state={"step": step}, details={"step": step})
            checkpoints.prune(root, 2, [])
            print(step, flush=True)
    """)
    process = subprocess.Popen([sys.executable, "-c", writer, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen = int(process.stdout.readline())
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    seen = max([seen, *map(int, process.stdout.read().split())])
    process.wait()
    found, _ = checkpoints.newest(tmp_path)
    assert found is not None
    # What the writer reported as saved is there, or something newer.
    assert found.manifest["step"] >= seen
    assert found.weights["weight"][0, 0] == found.state["step"] == found.manifest["step"]
