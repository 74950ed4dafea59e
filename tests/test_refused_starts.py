"""A command that is refused before it trains leaves nothing in --out: no directory that a later start would find."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch

from cli_calls import call

SMALL = "--model mlp --data digits --length 2it --device cpu"
REFUSED = {
    "find imp": [
        "--device tpu",
        "--device cpu:x",
        "--threads 0",
        "--jobs 0",
        "--jobs -2",
        "--replicates 0",
        "--density 0",
        "--density 1.5",
        "--density 0.00001",
        "--density 0.1 --rounds 0",
        "--levels -1",
        "--length 0it",
        "--length soon",
        "--lr nan",
        "--rewind 2it",
        "--rewind 99ep",
        "--criterion nonsense",
        "--scope nowhere",
        "--pattern 5:4",
        "--include [nothing.*]",
        "--exclude ['*']",
        "--model no-such-net",
        "--model_args {width:3}",
        "--data no-such-data",
        "--data folder --data_root nowhere",
        "--batch_size 0",
        "--optimizer nonsense",
        "--eval_every 0it",
        "--checkpoint_seconds -1",
        "--loggers [nonsense]",
        "--start missing.ticket",
        "--seed -1",
        "--nonsense 3",
    ],
    "find edge-popup": ["--density 0", "--density 2", "--density 0.00001", "--finetune soon", "--jobs 0"],
    "find dense": ["--length 0it", "--jobs 0", "--device tpu"],
    "study curve imp": ["--controls [nonsense]", "--control_levels [99]", "--jobs 0", "--device tpu", "--density 0"],
    "study mask-init-steps": ["--rates [-1]", "--rates [0.1,0.1]", "--drop -1", "--length 1it"],
    "study regularisation": ["--dropouts [1]", "--decays [-1]", "--densities [0]", "--weights_lr -1"],
    "study mask-init": ["--density 0", "--jobs 0", "--device tpu", "--replicates 0", "--length 0it"],
    "study deconstruct": [
        "--criteria [nonsense]",
        "--criteria []",
        "--criteria [random,random]",
        "--kept_actions [nonsense]",
        "--pruned_actions [nonsense]",
        "--levels 2 --density 0.5",
        "--levels 2 --densities [0.5]",
        "--densities [0.5,0.5]",
        "--rewind 99ep",
        "--rewind lr --kept_actions [reinit]",
        "--retrain {nonsense:1}",
        "--jobs 0",
    ],
    "study untrained": [
        "--criteria [nonsense]",
        "--weights [nonsense]",
        "--weights []",
        "--densities [2]",
        "--densities [1]",
        "--levels 2 --densities [0.5]",
        "--replicates 0",
    ],
    "study early-bird": ["--densities [0]", "--draw_at [soon]", "--length 0it", "--stable_compare x", "--pressure -1"],
    "study stop-when-stable": ["--density 0", "--rounds 1", "--stable_window 0", "--stable_distance -1"],
    "study mask-rules": ["--density 0", "--density 1.5", "--sampling_step 0", "--threshold_lr -1", "--length 0it"],
    "study rewind-schedule": ["--densities [0]", "--low_lr -1", "--warmup soon", "--length 0it"],
    "study overlap": ["--density 0", "--jobs 0", "--device tpu", "--replicates 0", "--tickets no.ticket none.ticket"],
    "study initialisations": [
        "--density 0",
        "--inits []",
        "--inits [nonsense]",
        "--inits [kaiming_normal,kaiming_normal]",
        "--imp {density:0.1}",
        "--imp {rewind:1it}",
        "--supermask {nonsense:1}",
        "--supermask {scale_fan:true}",
        "--replicates 0",
        "--jobs 0",
    ],
    "study landscape": [
        "--density 0",
        "--rounds 0",
        "--criteria [luck]",
        "--batches 0",
        "--probes 0",
        "--imp {rewind:1it}",
        "--replicates 0",
    ],
    "study connectivity": [
        "--density 0",
        "--points 2",
        "--from_steps [soon]",
        "--from_steps [99ep]",
        "--controls [luck]",
        "--at_levels [9]",
        "--imp {nonsense:1}",
        "--replicates 0",
        "--jobs 0",
    ],
    "study double-descent": [
        "--kind x",
        "--sigma 0",
        "--features [0]",
        "--multiples []",
        "--kind relu --sigma 1",
        "--kind width --lr 0",
    ],
    "study compare": ["", "--arms missing.yaml"],
}
VERIFY = [
    "--device tpu",
    "--threads 0",
    "--jobs 0",
    "--replicates 0",
    "--margin nan",
    "--margin_kind nonsense",
    "--length 0it",
    "--data no-such-data",
    "--data blobs",
    "--model no-such-net",
    "--lr nan",
    "--seed -1",
]
CUDA = ["find imp", "find edge-popup", "study curve imp", "study mask-init", "study overlap"]


def check_untouched(words: list[str], out: Path) -> None:
    """The command ends with status 2 and one line, and there is nothing new."""
    before = sorted(out.rglob("*")) if out.exists() else None
    status, _, error = call(*words, "--out", str(out))
    assert status == 2, f"{shlex.join(words)} ends with {status}: {error}"
    lines = [line for line in error.splitlines() if not line.startswith("tombola: warning")]
    assert len(lines) == 1, error
    assert (sorted(out.rglob("*")) if out.exists() else None) == before, f"{shlex.join(words)} left something"


@pytest.mark.parametrize(("verb", "more"), [(verb, more) for verb, given in REFUSED.items() for more in given])
def test_a_refused_start_leaves_nothing(verb: str, more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_untouched([*verb.split(), *SMALL.split(), *shlex.split(more)], tmp_path / "runs")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("verb", CUDA)
def test_a_device_that_is_not_there_leaves_nothing(verb: str, tmp_path: Path) -> None:
    check_untouched([*verb.split(), *SMALL.split(), "--device", "cuda"], tmp_path / "runs")


@pytest.fixture(scope="module")
def ticket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("found")
    status, _, error = call("find", "imp", *SMALL.split(), "--levels", "1", "--out", str(out))
    assert status == 0, error
    return next(out.rglob("level-01/network.ticket"))


@pytest.mark.parametrize("more", VERIFY)
def test_a_refused_verification_leaves_nothing(more: str, ticket: Path, tmp_path: Path) -> None:
    check_untouched(["verify", str(ticket), "--device", "cpu", *more.split()], tmp_path / "runs")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_verification_on_a_device_that_is_not_there_leaves_nothing_beside_another(
    ticket: Path, tmp_path: Path
) -> None:
    words = ["verify", str(ticket), "--replicates", "1", "--length", "1it"]
    status, _, error = call(*words, "--device", "cpu", "--out", str(tmp_path))
    assert status == 0, error
    check_untouched([*words, "--seed", "5", "--device", "cuda"], tmp_path)
