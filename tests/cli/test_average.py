"""swa-average as a user runs it."""

import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.commands import MODEL_AND_DATA, Net, not_finite


def test_dry_run_prints_the_plan_and_writes_nothing(run_swa, run_folder, tmp_path):
    result = run_swa("average", "ckpts", "-o", "swa.safetensors", "--dry-run")

    assert (result.exit_code, result.stderr) == (0, "")
    assert "6 checkpoints, ordered by epoch" in result.stdout
    assert "8 tensors averaged in float64, rounded once" in result.stdout
    assert "1 tensor taken from the newest file" in result.stdout
    size = sum(t.nbytes for t in Net().state_dict().values())
    assert f"{(6 * (size - 8) + 8) / 1000:.1f} kB to read, {size} B to write" in result.stdout
    assert not (tmp_path / "swa.safetensors").exists()


def test_dry_run_needs_no_output_but_a_device_that_is_there(run_swa, run_folder):
    assert "6 checkpoints" in run_swa("average", "ckpts", "--dry-run").stdout
    assert run_swa("average", "ckpts", "--dry-run", "--device", "cuda:99").exit_code == 1


def test_one_checkpoint_works_with_a_notice(run_swa, run_folder):
    result = run_swa("average", "ckpts/epoch-6.pt", "-o", "swa.safetensors")

    assert result.exit_code == 0
    assert result.stderr == "note: only one checkpoint (ckpts/epoch-6.pt): its average is itself.\n"


class Code:
    def __reduce__(self):
        return (exec, ("open('pwned', 'w')",))


def test_a_checkpoint_that_wants_code_is_averaged_and_not_run(run_swa, run_folder, tmp_path):
    path = tmp_path / "ckpts" / "epoch-8.pt"
    torch.save({**torch.load(path, weights_only=True), "hook": Code()}, path)

    result = run_swa("average", "ckpts", "-o", "new.safetensors")

    assert (result.exit_code, result.stderr) == (0, "")
    assert not (tmp_path / "pwned").exists()


def test_allow_nonfinite_lets_nan_through(run_swa, run_folder, tmp_path):
    not_finite(run_folder)

    result = run_swa("average", "ckpts", "-o", "swa.safetensors", "--allow-nonfinite")

    assert result.exit_code == 0
    assert load_file(tmp_path / "swa.safetensors")["head.bias"].isnan().tolist() == [False, False, True, False]


@pytest.mark.parametrize("container", ["torch", "safetensors"])
def test_averaging_on_the_cpu_imports_no_torch(run_folder, tmp_path, container):
    sources = "ckpts"
    if container == "safetensors":
        (tmp_path / "safe").mkdir()
        sources = "safe"
        for epoch in (1, 2):
            save_file({"w": torch.randn(3).bfloat16()}, tmp_path / "safe" / f"{epoch}.safetensors")
    code = (
        "import sys\n"
        "from swa_cli.cli.main import swa\n"
        f"sys.argv = ['swa', 'average', '{sources}', '-o', 'out.safetensors']\n"
        "try:\n    swa()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'torchvision', 'scipy', 'swa_cli.evaluation', 'swa_cli.batchnorm'} & {*sys.modules}\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")
    assert load_file(tmp_path / "out.safetensors")


def test_a_dry_run_says_what_would_be_written(run_swa, run_folder, tmp_path):
    torch.save({"model": torch.load(run_folder / "epoch-6.pt")["state_dict"], "optimizer": {}}, tmp_path / "like.pt")

    shards = run_swa("average", "ckpts", "-o", "out", "--max-shard-size", "200B", "--dry-run")
    like = run_swa("average", "ckpts", "-o", "out.pt", "--like", "like.pt", "--dry-run")
    other = run_swa("average", "ckpts", "-o", "out.safetensors", "--like", "like.pt", "--dry-run")

    assert (shards.exit_code, like.exit_code, other.exit_code) == (0, 0, 2)
    assert re.search(
        r"\d files in all, [\d.]+ kB: model-00001-of-0000\d\.safetensors, .*\.index\.json\n", shards.stdout
    )
    assert "left out, as they belong to other weights: optimizer\n" in like.stdout
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize("output", ["ckpts/epoch-11.pt", "like.pt"])
def test_what_is_read_is_not_written_over(run_swa, run_folder, tmp_path, output):
    torch.save({"model": torch.load(run_folder / "epoch-6.pt")["state_dict"], "optimizer": {}}, tmp_path / "like.pt")
    before = (tmp_path / output).read_bytes()
    like = ("--like", "like.pt") if output == "like.pt" else ()

    result = run_swa("average", "ckpts", "-o", output, "--force", *like)

    assert (result.exit_code, result.stdout) == (1, "")
    assert f"cannot write {output}: it is one of the checkpoints that are read. Name another output." in result.stderr
    assert (tmp_path / output).read_bytes() == before


def test_an_average_in_the_run_does_not_hide_what_lies_below(run_swa, run_folder, tmp_path):
    (tmp_path / "logs" / "version_0").mkdir(parents=True)
    run_folder.rename(tmp_path / "logs" / "version_0" / "checkpoints")

    for form in (("-o", "logs/swa.pt"), ("-o", "logs/swa2.pt"), ("-o", "logs/swa", "--max-shard-size", "1KB")):
        result = run_swa("average", "logs", "--last", "2", *form)
        assert result.exit_code == 0, result.stderr
        assert "Averaged 2 checkpoints (logs/version_0/checkpoints/epoch-10.pt to" in result.stdout
    result = run_swa("eval", "logs", "--last", "2", "--swa", "logs/swa.pt", *MODEL_AND_DATA)

    assert result.exit_code == 0, result.stderr


def test_an_average_under_an_unusual_key_is_found(run_swa, run_folder, tmp_path):
    for path in run_folder.iterdir():
        state = torch.load(path)["state_dict"]
        torch.save({"ema": {"weights": state}, "raw": {"other": torch.ones(1)}, "epoch": int(path.stem[6:])}, path)
    key = ("--key", "ema.weights")
    averaged = run_swa("average", "ckpts", *key, "--like", "ckpts/epoch-7.pt", "-o", "swa.pt")
    assert averaged.exit_code == 0, averaged.stderr

    updated = run_swa("bn-update", "swa.pt", *MODEL_AND_DATA)
    verified = run_swa("verify", "swa.pt")
    evaluated = run_swa("eval", "ckpts", *key, "--swa", "swa.pt", *MODEL_AND_DATA)

    assert (updated.exit_code, verified.exit_code, evaluated.exit_code) == (0, 0, 0), verified.stderr
    assert next(iter(torch.load(tmp_path / "swa.pt")["ema"]["weights"])) == "body.weight"


def test_more_shards_than_files_can_be_open(run_swa, tmp_path, monkeypatch):
    torch.save({f"w{number}": torch.ones(10) for number in range(30)}, tmp_path / "1.pt")
    monkeypatch.setattr("resource.getrlimit", lambda _: (40, 40))

    result = run_swa("average", "1.pt", "-o", "out", "--max-shard-size", "40B")

    assert result.exit_code == 1
    assert "the output would be 31 files, and no more than 20 can be open at once here" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "verify"])
def test_one_process_only(run_swa, tmp_path, monkeypatch, command):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    (tmp_path / "run.yaml").write_text("{}")

    result = run_swa(command, *(["--config", "run.yaml"] if command == "run" else ["swa.pt"]))

    assert (result.exit_code, result.stdout) == (2, "")
    assert f"swa {command} runs as one process, and torchrun started several" in result.stderr


def test_flags_go_over_what_excludes_them_in_the_file(run_swa, run_folder, tmp_path):
    config = "average: {sources: [ckpts], output: out, weights: [1, 1, 1, 1, 1, 2], max_shard_size: 1KB}"
    (tmp_path / "run.yaml").write_text(config)

    ema = run_swa("average", "--config", "run.yaml", "--ema", "0.5", "--dry-run")
    like = run_swa(
        "average", "--config", "run.yaml", "--like", f"{run_folder.name}/epoch-7.pt", "-o", "out.pt", "--dry-run"
    )

    assert (ema.exit_code, like.exit_code) == (0, 0), ema.stderr + like.stderr
