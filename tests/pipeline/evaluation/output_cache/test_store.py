"""swa-eval --cache: outputs are used again where nothing has changed, and nowhere else."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
import zipfile
from importlib import import_module

import numpy as np
import pytest
import torch

from support.evaluating import (
    MODEL_AND_DATA,
    N_CHECKPOINTS,
    averaged,
    but,
    counted,
    evaluated,
    good_state,
    noisy,
    prepared,
)
from swa_cli.pipeline.evaluation.output_cache.batch_digest import digest_of

pytestmark = pytest.mark.slow

N_BATCHES = 5  # of each split
N_MEMBERS = N_CHECKPOINTS + 2  # with the average, and that with averaged statistics
EVERY_PASS = N_BATCHES * (N_MEMBERS + N_CHECKPOINTS)  # test, and val for the checkpoints

MORE_CODE = '''

class Failing(Data):
    """Of the batches of the test split a few are all there are; where "mended" is there, all are."""

    def batches(self, split):
        for place, batch in enumerate(super().batches(split)):
            if split == "test" and place == 4 and not Path("mended").exists():
                raise OSError("disk gone")
            yield batch


class Slow(Data):
    """Says in which batch it is, and waits in the last of the test split."""

    def batches(self, split):
        import time
        for place, batch in enumerate(super().batches(split)):
            if split == "test" and place == 4 and not Path("mended").exists():
                Path("waiting").touch()
                time.sleep(600)
            yield batch


class Named(Data):
    """Batches as Hugging Face has them."""

    def batches(self, split):
        for x, y in super().batches(split):
            yield {"x": x, "labels": y}


class Arrays(Data):
    """With arrays of numpy, and groups."""

    def split_batch(self, batch):
        x, y = batch
        return (x,), {"extra": x.numpy()}, y, [f"group {value}" for value in y.tolist()]

    def batches(self, split):
        yield from super().batches(split)


class WithExtra(Net):
    def forward(self, x, extra):
        assert extra.shape == tuple(x.shape)
        return super().forward(x)


class Opaque:
    """What can be neither pickled nor told from another."""

    def __init__(self, x):
        self.x = x

    def __reduce__(self):
        raise TypeError("not this one")


class Boxes(Data):
    def batches(self, split):
        for x, y in super().batches(split):
            yield Opaque(x), y


class OfBoxes(Net):
    def forward(self, box):
        return super().forward(box.x)


class Half:
    """A task of the user's, which has its own idea of an output."""

    higher_is_better = {"right": True}

    def scores(self, output, target):
        return {"right": (output.argmax(1) == target).double()}
'''


@pytest.fixture
def folder(run_swa, tmp_path):
    """With an average; nothing is counted yet."""
    prepared(tmp_path)
    (tmp_path / "evalcode.py").write_text((tmp_path / "evalcode.py").read_text() + MORE_CODE)
    averaged(run_swa)
    counted("forwards")
    return tmp_path


def cached(run_swa, *arguments: object, data: tuple[str, ...] = MODEL_AND_DATA):
    """The result but for the note about what was used again, and how many forward passes it took."""
    result = evaluated(run_swa, "--cache", "kept", *arguments, data=data)
    return but(result, "notes"), counted("forwards")


def note_of(run_swa) -> str:
    (note,) = evaluated(run_swa, "--cache", "kept")["notes"]
    return note


def of(data: str, model: str = "Net") -> tuple[str, ...]:
    return ("--model", f"evalcode.py:{model}", "--data", f"evalcode.py:{data}")


def test_the_second_run_makes_no_forward_pass_and_gives_the_same(run_swa, folder):
    without = but(evaluated(run_swa), "notes")
    assert counted("forwards") == EVERY_PASS
    first, n_first = cached(run_swa)
    counted("loads")
    second, n_second = cached(run_swa)

    assert without == first == second
    assert (n_first, n_second, counted("loads")) == (EVERY_PASS, 0, 0)
    assert note_of(run_swa) == f"{EVERY_PASS} outputs from kept used again, 0 added to it."


def test_the_rows_that_follow_from_outputs_need_no_forward_pass_either(run_swa, folder):
    cached(run_swa)

    expected = but(evaluated(run_swa, "--compare-ensemble"), "notes")
    counted("forwards")
    assert cached(run_swa, "--compare-ensemble") == (expected, 0)


def test_a_further_checkpoint_is_all_that_is_run(run_swa, folder):
    cached(run_swa)
    torch.save({"state_dict": noisy(good_state(), 0.5), "epoch": 6}, folder / "ckpts/epoch-6.pt")
    _, n = cached(run_swa)

    assert n == 2 * N_BATCHES


def test_a_checkpoint_by_another_name_is_the_same(run_swa, folder):
    cached(run_swa)
    (folder / "ckpts/epoch-0.pt").rename(folder / "ckpts/epoch-00.pt")

    assert cached(run_swa)[1] == 0


def test_a_checkpoint_of_the_same_name_with_other_weights_is_run(run_swa, folder):
    cached(run_swa)
    torch.save({"state_dict": noisy(good_state(), 0.5), "epoch": 2}, folder / "ckpts/epoch-2.pt")
    expected = but(evaluated(run_swa), "notes")
    counted("forwards")

    assert cached(run_swa) == (expected, 3 * N_BATCHES)  # on both splits, and in the averaged statistics


@pytest.mark.parametrize(
    "change",
    [
        ("--data-arg", "seed=6"),
        ("--amp", "bf16"),
        ("--channels-last",),
        ("--task", "classification", "--task-arg", "top_k=[2]"),
        ("--task", "evalcode.py:Half"),
    ],
    ids=" ".join,
)
def test_what_changes_the_outputs_is_not_taken_for_the_same(run_swa, folder, change):
    cached(run_swa)
    expected = but(evaluated(run_swa, *change), "notes")
    n_all = counted("forwards")

    assert cached(run_swa, *change) == (expected, n_all)
    assert cached(run_swa, *change) == (expected, 0)


def test_other_labels_alone_are_other_batches(run_swa, folder):
    cached(run_swa)
    expected = but(evaluated(run_swa, "--data-arg", "highest=1"), "notes")
    counted("forwards")
    result, _ = cached(run_swa, "--data-arg", "highest=1")

    assert result == expected


@pytest.mark.parametrize("linked", [False, True])
def test_a_change_elsewhere_in_the_package_of_the_model_starts_anew(run_swa, folder, tmp_path_factory, linked):
    root = tmp_path_factory.mktemp("code")
    (root / "evalpkg/models").mkdir(parents=True)
    (root / "evalpkg/ops.py").write_text("def act(x):\n    return x\n")
    (root / "evalpkg/models/net.py").write_text(
        "from evalcode import Net\nfrom evalpkg.ops import act\n"
        "class Acting(Net):\n    def forward(self, x):\n        return act(super().forward(x))\n"
    )
    if linked:
        (root / "linked").symlink_to(root, target_is_directory=True)
    with zipfile.ZipFile(folder / "lib.zip", "w") as archive:
        archive.writestr("evalzipped.py", "")
    paths = [str(root / "linked" if linked else root), str(folder), str(folder / "lib.zip")]
    sys.path[:0] = paths
    data = ("--model", "evalpkg.models.net.Acting", *MODEL_AND_DATA[2:])
    try:
        import_module("evalzipped")  # no plain file, though in the current folder
        assert cached(run_swa, data=data)[1] == EVERY_PASS
        assert cached(run_swa, data=data)[1] == 0
        (root / "evalpkg/ops.py").write_text("def act(x):\n    return -x\n")
        assert cached(run_swa, data=data)[1] == EVERY_PASS
    finally:
        for path in paths:
            sys.path.remove(path)
        for name in ("evalcode", "evalzipped", *[name for name in sys.modules if name.startswith("evalpkg")]):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("change", "task"),
    [
        (("class Net(nn.Module):", "class Net(nn.Module):  # changed"), ()),
        (("Half:", "Half:  # changed"), ("--task", "evalcode.py:Half")),
    ],
)
def test_a_change_of_the_users_code_starts_anew(run_swa, folder, change, task):
    cached(run_swa, *task)
    path = folder / "evalcode.py"
    path.write_text(path.read_text().replace(*change))
    _, n = cached(run_swa, *task)

    assert n == EVERY_PASS


def test_a_change_of_a_layer_that_lives_in_another_file_starts_anew(run_swa, folder):
    (folder / "evallayers.py").write_text("from evalcode import Net\nclass Layers(Net):\n    pass\n")
    (folder / "evalmodel.py").write_text("from evallayers import Layers\ndef build():\n    return Layers()\n")
    data = ("--model", "evalmodel.py:build", *MODEL_AND_DATA[2:])
    sys.path.insert(0, str(folder))
    try:
        assert cached(run_swa, data=data)[1] == EVERY_PASS
        assert cached(run_swa, data=data)[1] == 0
        (folder / "evallayers.py").write_text("from evalcode import Net\nclass Layers(Net):\n    changed = True\n")
        assert cached(run_swa, data=data)[1] == EVERY_PASS
    finally:
        sys.path.remove(str(folder))
        for name in ("evalcode", "evallayers", "evalmodel"):
            sys.modules.pop(name, None)


def test_what_a_loader_gave_before_it_failed_is_used_again(run_swa, folder):
    arguments = ("eval", "ckpts", "--swa", "swa.safetensors", *of("Failing"), "--cache", "kept")
    result = run_swa(*arguments)
    n_failed = counted("forwards")

    assert (result.exit_code, result.stdout, result.stderr.count("error:")) == (1, "", 1)
    assert "loading batch 4 failed: OSError: disk gone" in result.stderr
    (folder / "mended").touch()
    expected = but(evaluated(run_swa, data=of("Failing")), "notes")
    counted("forwards")
    assert cached(run_swa, data=of("Failing")) == (expected, EVERY_PASS - n_failed)
    assert n_failed == EVERY_PASS - N_MEMBERS


READING = """
def read(place):
    if place == 4:
        raise OSError("disk gone")
"""
OWN_DATA = """
from evalcode import Data
from evalreading import read

class Reading(Data):
    def batches(self, split):
        for place, batch in enumerate(super().batches(split)):
            if split == "test":
                read(place)
            yield batch
"""


def test_a_loader_that_is_mended_in_code_of_its_own_goes_on_where_it_failed(run_swa, folder):
    (folder / "evalreading.py").write_text(READING)
    (folder / "evaldata.py").write_text(OWN_DATA)
    data = (*MODEL_AND_DATA[:2], "--data", "evaldata.py:Reading")

    def forget() -> None:  # as a new process would
        for name in ("evalcode", "evaldata", "evalreading"):
            sys.modules.pop(name, None)

    try:
        failed = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *data, "--cache", "kept")
        assert "test split: loading batch 4 failed: OSError: disk gone" in failed.stderr
        assert counted("forwards") == EVERY_PASS - N_MEMBERS
        (folder / "evalreading.py").write_text("def read(place):\n    pass  # mended\n")
        forget()
        assert cached(run_swa, data=data)[1] == N_MEMBERS
        (folder / "evalcode.py").write_text((folder / "evalcode.py").read_text() + "\nimport evalreading\n")
        forget()
        assert cached(run_swa, data=data)[1] == EVERY_PASS  # the model may use it now
        (folder / "evalreading.py").write_text("def read(place):\n    pass  # changed\n")
        forget()
        assert cached(run_swa, data=data)[1] == EVERY_PASS
    finally:
        forget()


def test_what_was_kept_before_a_run_was_killed_is_used_again(run_swa, folder):
    command = ("eval", "ckpts", "--swa", "swa.safetensors", *of("Slow"), "--cache", "kept")
    process = subprocess.Popen(
        [sys.executable, "-m", "swa_cli", *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not (folder / "waiting").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    n_killed = counted("forwards")
    (folder / "mended").touch()
    expected = but(evaluated(run_swa, data=of("Slow")), "notes")
    counted("forwards")

    assert n_killed == EVERY_PASS - N_MEMBERS
    assert cached(run_swa, data=of("Slow")) == (expected, N_MEMBERS)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "another", "bits"])
def test_damaged_outputs_are_made_again(run_swa, folder, damage):
    expected, _ = cached(run_swa)
    files = sorted(path for path in (folder / "kept").rglob("*.safetensors") if path.is_file())
    assert len(files) == EVERY_PASS
    contents = files[0].read_bytes()
    damaged = {
        "empty": b"",
        "cut": contents[:-3],
        "text": b"hello",
        "another": next(other for path in files[1:] if (other := path.read_bytes()) != contents)[:-1] + b"x",
        "bits": contents[:-8] + bytes([contents[-8] ^ 16]) + contents[-7:],
    }
    files[0].write_bytes(damaged[damage])

    assert cached(run_swa) == (expected, 1)
    assert cached(run_swa) == (expected, 0)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("evalcode.py", "--cache evalcode.py: expected a folder, found a file."),
        ("evalcode.py/kept", "cannot keep outputs in evalcode.py/kept/"),
        ("/proc/kept", "cannot keep outputs in /proc/kept/"),
    ],
)
def test_a_place_that_cannot_hold_outputs(run_swa, folder, place, message):
    result = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA, "--cache", place, "--json", "r.json")

    assert (result.exit_code, result.stdout, result.stderr.count("error:")) == (1, "", 1)
    assert message in result.stderr
    assert not (folder / "r.json").exists()


def test_batches_with_names_arrays_and_groups(run_swa, folder):
    for data in (of("Named"), of("Arrays", "WithExtra")):
        expected = but(evaluated(run_swa, data=data), "notes")
        counted("forwards")

        assert cached(run_swa, data=data) == (expected, EVERY_PASS)
        assert cached(run_swa, data=data) == (expected, 0)
    assert expected["n_groups"] == 3


def test_batches_that_cannot_be_told_apart_are_run_every_time(run_swa, folder):
    data = of("Boxes", "OfBoxes")
    expected = but(evaluated(run_swa, data=data), "notes")
    counted("forwards")

    assert cached(run_swa, data=data) == (expected, EVERY_PASS)
    assert cached(run_swa, data=data) == (expected, EVERY_PASS)


def test_members_one_after_the_other_keep_the_same_outputs(run_swa, folder):
    expected, _ = cached(run_swa, "--at-once", "1")
    result, n = cached(run_swa)

    assert n == 0
    assert but(result, "plan") == but(expected, "plan")


@dataclasses.dataclass
class Graph:
    """What a library of graphs might have."""

    nodes: torch.Tensor
    name: str = "g"


def boxed(value) -> np.ndarray:
    """An array of objects with ``value`` in it."""
    array = np.empty(1, dtype=object)
    array[0] = value
    return array


A = torch.arange(6.0).reshape(2, 3)

SAME = [
    (A, A.clone()),
    (A, A.t().contiguous().t()),
    (Graph(A), Graph(A.clone())),
    (A.to_sparse(), A.clone().to_sparse()),
    (np.arange(3), np.arange(3)),
    (np.array([1, "a"], dtype=object), np.array([1, "a"], dtype=object)),
    ({"a": [1, None]}, {"a": [1, None]}),
    (torch.zeros(0, 3), torch.zeros(0, 3)),
]

BIG = torch.zeros(5000)
OTHER = BIG.clone()
OTHER[2500] = 1

DIFFERENT = [
    ([1, 12], [11, 2]),
    (["a", "b"], ["ab"]),
    ([[1], [2]], [[1, 2]]),
    ([{"a": 1}, {"b": 2}], [{"a": 1, "b": 2}, {}]),
    (1, 1.0),
    (1, True),
    ("1", 1),
    (b"1", "1"),
    (A, A.double()),
    (A, A.reshape(3, 2)),
    (A, A.numpy()),
    (A, A + 1),
    (A.to_sparse(), (A + 1).to_sparse()),
    (A.to_sparse(), A),
    (torch.zeros(0, 3), torch.zeros(0, 4)),
    (Graph(BIG), Graph(OTHER)),
    (Graph(A), Graph(A, "h")),
    (boxed(BIG.numpy()), boxed(OTHER.numpy())),
    ([Graph(BIG)], [Graph(OTHER)]),
    ({Graph}, {dict}),
    (np.float32(1), np.float64(1)),
    (torch.tensor([0.0]), torch.tensor([-0.0])),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_contents_have_the_same_digest(one, other):
    assert digest_of(one) == digest_of(other) is not None


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_contents_have_another_digest(one, other):
    assert digest_of(one) != digest_of(other)
    assert None not in {digest_of(one), digest_of(other)}


CONTENTS = """
from types import SimpleNamespace
import torch
A = torch.arange(6.0).reshape(2, 3)
CONTENTS = [A, SimpleNamespace(x=A, y="y"), {"a": 1.5, "b": {"c"}}, A.to_sparse(), torch.bfloat16]
"""


def test_a_digest_does_not_depend_on_the_process():
    scope: dict = {}
    exec(CONTENTS, scope)
    module = "swa_cli.pipeline.evaluation.output_cache.batch_digest"
    program = f"{CONTENTS}\nfrom {module} import digest_of\nprint(digest_of(CONTENTS))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert found.stdout == f"{digest_of(scope['CONTENTS'])}\n"


def test_what_cannot_be_seen_to_the_ground_of_has_no_digest():
    assert digest_of([A, lambda x: x]) is None
    assert digest_of(json) is None
