"""Checkpoints that lie apart are named, wanderers are not."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from support.late_device import late_device
from support.runs import save_as, states_of_all_kinds
from swa_cli.averaging import Engine, average, plan_average
from swa_cli.averaging.outliers import blocks_of, outliers, ratios_at
from swa_cli.averaging.sampling import choose_places
from swa_cli.averaging.unrelated import are_unrelated, correlations_at
from swa_cli.checkpoints import find_checkpoints
from swa_cli.demo.train import train_digits
from swa_cli.formats import open_checkpoint


def walk(n: int, numel: int = 3000, *, steps=None) -> list[torch.Tensor]:
    """Checkpoints that each go off in a new direction, by 1 % of the start or as far as ``steps`` say."""
    at = torch.randn(numel)
    made = []
    for step in range(n):
        at = at + 0.01 * (1 if steps is None else steps[step]) * torch.randn(numel)
        made.append(at)
    return made


def found(folder, tensors, *, engine=None, **options) -> dict[str, float]:
    """Which of the checkpoints lie apart, by their names."""
    folder.mkdir(exist_ok=True)
    paths = []
    for step, tensor in enumerate(tensors):
        state = tensor if isinstance(tensor, dict) else {"a": tensor[:1000].clone(), "b": tensor[1000:].clone()}
        paths.append(folder / f"epoch-{step}.pt")
        torch.save(state, paths[-1])
    plan = plan_average([open_checkpoint(path) for path in paths], **options)
    result = average(plan, folder / "o.safetensors", engine=engine or Engine(), overwrite=True)
    assert bool(result.notices) == bool(result.outliers)
    return {path.name: ratio for path, ratio in result.outliers.items()}


@pytest.mark.parametrize("n", [3, 4, 5, 8, 20, 50])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_checkpoint_of_another_run_is_named(tmp_path, n, place):
    tensors = walk(n)
    at = {"first": 0, "middle": n // 2, "last": n - 1}[place]
    tensors[at] = walk(n)[at]

    assert list(found(tmp_path / "c", tensors)) == [f"epoch-{at}.pt"]


def test_two_of_another_run_are_named(tmp_path):
    tensors, others = walk(9), walk(9)
    tensors[7:] = others[7:]

    assert list(found(tmp_path / "c", tensors)) == ["epoch-7.pt", "epoch-8.pt"]


def test_a_folder_of_two_runs_is_said_to_be_one(tmp_path):
    tensors, others = walk(8), walk(8)
    tensors[:4] = others[:4]

    assert list(found(tmp_path / "c", tensors)) == [f"epoch-{step}.pt" for step in range(4)]


@pytest.mark.parametrize("n", [3, 4, 5, 8, 20, 50])
@pytest.mark.parametrize("kind", ["wandering", "straight on", "slowing down", "scattered"])
def test_a_run_that_wanders_is_one_run(tmp_path, n, kind):
    start, direction = torch.randn(3000), torch.randn(3000)
    tensors = {
        "wandering": lambda: walk(n),
        "straight on": lambda: [start + 0.01 * step * direction for step in range(n)],
        "slowing down": lambda: walk(n, steps=np.linspace(3, 1, n)),
        "scattered": lambda: [start + 0.1 * torch.randn(3000) for _ in range(n)],
    }[kind]()

    assert found(tmp_path / "c", tensors) == {}


@pytest.mark.parametrize("n", [1, 2])
def test_two_checkpoints_are_never_judged(tmp_path, n):
    assert found(tmp_path / "c", [torch.randn(3000) for _ in range(n)]) == {}


@pytest.fixture
def one_thread():
    """For torch, whose threads wait for each other where others want the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_the_runs_of_the_demo_are_one_run_each_and_strangers_are_named(tmp_path, one_thread, seed):
    run = [open_checkpoint(path) for path in train_digits(tmp_path / "run", seed=seed)]
    other = [open_checkpoint(path) for path in train_digits(tmp_path / "other", seed=seed + 10)]
    named = {}
    for n in (3, 5, 12):
        for label, last in (("own", run[-1]), ("other", other[-1])):
            plan = plan_average([*run[-n:-1], last])
            named[n, label] = average(plan, tmp_path / "o.safetensors", overwrite=True).outliers

    seeds = average(plan_average([run[-1], other[-1]]), tmp_path / "o.safetensors", overwrite=True)
    ends = average(plan_average([run[0], run[-1]]), tmp_path / "o.safetensors", overwrite=True)
    assert (seeds.unrelated, ends.unrelated) == (True, False)
    for n in (3, 5, 12):
        assert named[n, "own"] == {}
        assert list(named[n, "other"]) == [other[-1].path]


def test_the_odd_one_among_equals_is_named_and_equals_are_not(tmp_path):
    frozen, moving = torch.randn(5000), walk(6)
    states = [{"frozen": frozen.clone(), "a": tensor} for tensor in moving]
    assert found(tmp_path / "lora", states) == {}

    states = [{"w": frozen.clone()} for _ in range(6)]
    assert found(tmp_path / "equal", states) == {}

    states[2]["w"] += torch.randn(5000)
    assert found(tmp_path / "odd", states) == {"epoch-2.pt": np.inf}


def test_threads_pieces_and_the_device_change_nothing(tmp_path, monkeypatch):
    states = states_of_all_kinds(5)
    for state in states[1:]:
        for name, tensor in state.items():
            if tensor.is_floating_point() or tensor.is_complex():
                start = states[0][name].contiguous().to(torch.complex64 if tensor.is_complex() else torch.float32)
                state[name] = (start + 0.03 * torch.randn_like(start)).to(tensor.dtype)
        state["h.tied_too"] = state["h.tied"]
    states[3] = states_of_all_kinds(5)[3]
    for step, state in enumerate(states):
        save_as(["torch", "safetensors", "shards 2", "nested", "reversed"][step], state, tmp_path / f"epoch-{step}")
    plan = plan_average(find_checkpoints([tmp_path, tmp_path / "epoch-2"]).checkpoints)
    monkeypatch.setattr("swa_cli.averaging.cuda.cuda", late_device(1))

    results = [
        average(plan, tmp_path / "o.safetensors", engine=engine, overwrite=True).outliers
        for engine in (
            *(Engine(device="cpu", threads=threads, chunk=chunk) for threads, chunk in [(1, 8), (2, 97), (3, None)]),
            *(Engine(device="cuda", threads=threads, chunk=40) for threads in (1, 2)),
        )
    ]

    assert all(result == results[0] for result in results)
    assert [path.name for path in results[0]] == ["epoch-3.pth"]


def test_nan_that_is_let_through_is_left_out_of_the_comparison(tmp_path):
    tensors = walk(5)
    tensors[1][::200] = torch.nan
    tensors[2][5] = torch.inf

    assert found(tmp_path / "c", tensors, allow_nonfinite=True) == {}


def test_places_are_few_spread_and_short_however_many_sources_there_are(tmp_path):
    for step in range(3):
        save_file(
            {f"w{i}": torch.zeros(2_000_000) for i in range(4)} | {"z": torch.zeros(3)},
            tmp_path / f"{step}.safetensors",
        )
    sources = find_checkpoints([tmp_path]).checkpoints

    few, many = choose_places(plan_average(sources)), choose_places(plan_average(sources * 200))

    assert [place.tensor for place in few] == [f"w{i}" for i in range(4) for _ in range(8)]
    assert all(0 <= place.start < place.stop <= 2_000_000 for place in [*few, *many])
    assert max(place.stop - place.start for place in few) == 2048
    assert sum(place.stop - place.start for place in few) <= 8_000_000 // 64
    assert max(place.stop - place.start for place in many) * 600 <= 1 << 18
    assert len(many) * sum(len(range(600)[block]) ** 2 for block in blocks_of(600)) <= 1 << 21
    assert len(choose_places(plan_average(sources[:2]))) == 32
    assert choose_places(plan_average(sources[:1])) == []


def test_a_ratio_is_the_distance_over_that_to_the_usual_neighbour():
    line = np.array([[0.0], [1.0], [2.0], [3.0], [30.0]])

    ratios = ratios_at(line)

    assert ratios is not None
    assert ratios[:4, :4].tolist() == [[abs(i - j) for j in range(4)] for i in range(4)]
    assert ratios[4].tolist() == [30, 29, 28, 27, 0]
    assert outliers([[ratios]], 5) == {4: 27}
    assert outliers([], 5) == {}


def test_many_checkpoints_are_compared_in_time_and_memory_that_grow_with_their_number(tmp_path):
    compared = {count: sum(len(range(count)[block]) ** 2 for block in blocks_of(count)) for count in (1000, 20_000)}

    assert compared[20_000] < 21 * compared[1000]
    for count in (1, 2, 127, 128, 129, 191, 192, 193, 1000):
        blocks = [range(count)[block] for block in blocks_of(count)]
        assert {number for block in blocks for number in block} == {*range(count)}
        assert max(map(len, blocks)) == min(count, 128)
        assert all({*one} & {*other} for one, other in itertools.pairwise(blocks))


def rows_of(tensors) -> np.ndarray:
    return torch.stack(list(tensors)).double().numpy()


@pytest.mark.parametrize("count", [129, 300])
def test_of_very_many_the_odd_ones_are_named_too(count):
    def named(rows) -> dict[int, float]:
        places = [
            [ratios_at(rows[block, start : start + 100]) for block in blocks_of(count)] for start in (0, 100, 200)
        ]
        return dict(outliers(places, count))

    rows, others = rows_of(walk(count, 300)), rows_of(walk(count, 300))
    assert named(rows) == {}
    for odd in ([0], [count // 2], [count - 1], [64, 65], [*range(count - 30, count)], [*range(3, count, count // 3)]):
        mixed = rows.copy()
        mixed[odd] = others[odd]
        assert sorted(named(mixed)) == odd
    mixed[: count // 3] = others[: count // 3]
    mixed[count // 3 :] = rows[count // 3 :]
    assert sorted(named(mixed)) == [*range(count // 3)]
    assert named(np.zeros((count, 300))) == {}


@pytest.mark.parametrize("n", [2, 3, 10, 150])
def test_models_of_different_seeds_are_called_unrelated(run_swa, save_run, tmp_path, n):
    folder = save_run([{"w": torch.randn(3000), "norm": 1 + 0.1 * torch.randn(200)} for _ in range(n)])

    result = run_swa("average", folder, "-o", "o.safetensors")

    said = " ".join(result.stderr.split())
    which = "the two checkpoints do not" if n == 2 else f"no two of the {n} checkpoints"
    assert result.exit_code == 0
    assert f"warning: {which} resemble each other: their weights are not correlated" in said
    assert "swa-eval --compare-ensemble" in said
    assert (tmp_path / "o.safetensors").exists()


RELATED = {
    "a run": walk,
    "large steps": lambda n: walk(n, steps=[100] * n),
    "scattered wide": lambda n: [start + torch.randn(3000) for start in [torch.randn(3000)] for _ in range(n)],
    "one pair": lambda n: [*(torch.randn(3000) for _ in range(n - 1)), *walk(2)][-n:],
    "one stranger": lambda n: [*walk(n - 1), torch.randn(3000)] if n > 2 else walk(n),
    "offset alone": lambda n: [torch.linspace(0, 1, 3000) + step for step in range(n)],
    "constant": lambda n: [torch.full((3000,), float(step)) for step in range(n)],
    "not finite": lambda n: [torch.full((3000,), torch.inf) for _ in range(n)],
}


@pytest.mark.parametrize("kind", RELATED)
@pytest.mark.parametrize("n", [2, 3, 10, 150])
def test_checkpoints_of_which_two_resemble_each_other_are_not(n, kind):
    rows = rows_of(RELATED[kind](n))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        places = [[correlations_at(rows[block, at : at + 64]) for block in blocks_of(n)] for at in range(0, 2944, 92)]

    assert not are_unrelated(places)
    assert not are_unrelated([])


def test_tiny_and_huge_weights_are_compared_like_any():
    rows = np.random.default_rng(0).standard_normal((4, 5000))

    for scale in (1e-200, 1.0, 1e200):
        assert are_unrelated([[correlations_at(rows * scale)]])
        assert not are_unrelated([[correlations_at((rows[:1] + 0.1 * rows) * scale)]])


def test_the_note_names_file_and_distance_and_the_average_is_written(run_swa, tmp_path):
    tensors = walk(6)
    tensors[2] = torch.randn(3000)
    (tmp_path / "ckpts").mkdir()
    for step, tensor in enumerate(tensors):
        torch.save({"w": tensor}, tmp_path / "ckpts" / f"epoch-{step}.pt")

    plan = run_swa("average", "ckpts", "-o", "o.safetensors", "--dry-run")
    result = run_swa("average", "ckpts", "-o", "o.safetensors")

    said = " ".join(result.stderr.split())
    assert (result.exit_code, plan.stderr) == (0, "")
    assert said.startswith("note: far from the other checkpoints")
    assert "ckpts/epoch-2.pt (1" in said
    assert "Included all the same; leave out what does not belong (--exclude)." in said
    assert (tmp_path / "o.safetensors").exists()
