"""Where the user's code meets ours: whatever it raises is one message, and what it changes stays its own."""

import gc
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from swa_cli.batchnorm import bn_layers, recalibrate
from swa_cli.errors import Terminated, UserCodeError, shortened
from swa_cli.formats import open_checkpoint
from swa_cli.user import process_state
from swa_cli.user.dataloader import Passes
from swa_cli.user.datamodule import iterate
from swa_cli.user.guard import raised_by_user, user_code
from swa_cli.user.model import build_model, load_checkpoint, materialise, state_dict_for
from swa_cli.user.modules import modules_of, state_dict_of
from swa_cli.user.refused_exits import ExitCalled, exits_refused


class OwnBaseError(BaseException):
    """Of no kind that ``except Exception`` catches."""


class OwnInterrupt(KeyboardInterrupt):
    """No Ctrl-C."""


class MuteError(Exception):
    def __str__(self):
        raise OwnBaseError

    __repr__ = __str__


class MuteExit(SystemExit):
    code = property(lambda self: 1 / 0)  # pyright: ignore[reportAssignmentType]


def recursing():
    return recursing()


def raising(error):
    raise error


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        (
            lambda: raising(MuteError(1)),
            r"x failed: MuteError: its str\(\) raises OwnBaseError \(at .*test_guard",
        ),
        (lambda: raising(OwnBaseError("a\nb")), "x failed: OwnBaseError: a b"),
        (lambda: raising(OwnInterrupt("c")), "x failed: OwnInterrupt: c"),
        (lambda: raising(GeneratorExit()), "x failed: GeneratorExit: no message"),
        (lambda: raising(StopIteration(3)), "x failed: StopIteration: 3"),
        (lambda: raising(MemoryError()), "x failed: MemoryError: no message"),
        (recursing, "x failed: RecursionError: maximum recursion depth"),
        (lambda: raising(SystemExit(0)), r"x failed: it called sys\.exit\(0\)"),
        (lambda: raising(MuteExit()), r"x failed: it called sys\.exit\(\.\.\.\)"),
        (lambda: raising(ExceptionGroup("several", [ValueError("a")])), "x failed: ExceptionGroup: several"),
    ],
)
def test_whatever_is_raised_is_one_error(fails, message):
    with pytest.raises(UserCodeError, match=message), user_code("x"):
        fails()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Terminated(15), UserCodeError("ours")])
def test_an_interrupt_and_errors_of_ours_pass(error):
    with pytest.raises(type(error)) as raised, user_code("x"):
        raise error
    assert raised.value is error


CHANGES = {
    "directory": (os.chdir, os.getcwd, str),
    "device": (
        lambda _: torch.set_default_device("meta"),
        lambda: str(torch.zeros(1).device),
        lambda _: "meta",
    ),
    "dtype": (lambda _: torch.set_default_dtype(torch.float64), torch.get_default_dtype, lambda _: torch.float64),
    "numpy": (lambda _: np.seterr(divide="raise"), lambda: np.geterr()["divide"], lambda _: "raise"),
}


@pytest.fixture
def users_state():
    """Nothing is left of it."""
    process_state.forget()
    yield
    process_state.forget()


@pytest.mark.usefixtures("users_state")
@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("fails", [False, True])
def test_what_the_user_s_code_sets_holds_for_it_and_not_for_us(tmp_path, kind, fails):
    change, read, of = CHANGES[kind]
    ours, theirs = read(), of(tmp_path)
    if fails:
        with pytest.raises(UserCodeError), user_code("x"):
            raising(ValueError(change(tmp_path)))
    else:
        with user_code("x"):
            change(tmp_path)

    assert read() == ours != theirs
    with user_code("y"), user_code("within it"):
        assert read() == theirs
    assert read() == ours


@pytest.fixture
def as_it_was(monkeypatch):
    """All that a caller may set is put back."""
    monkeypatch.chdir(Path.cwd())
    with np.errstate():
        yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("users_state", "as_it_was")
@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("was_moved", [False, True])
def test_what_the_caller_sets_between_two_calls_holds_for_the_user_s_code(tmp_path, kind, was_moved):
    """In a notebook, say, that goes to another directory."""
    change, read, of = CHANGES[kind]
    with user_code("x"):
        if was_moved:
            os.chdir(tmp_path.parent)

    change(tmp_path)
    with user_code("y"):
        assert read() == of(tmp_path)
    assert read() == of(tmp_path)


@pytest.mark.usefixtures("users_state")
def test_a_directory_that_is_gone_is_no_matter(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    ours = Path.cwd()
    with user_code("x"):
        os.chdir(folder)
        folder.rmdir()
    with user_code("y"):
        pass
    assert Path.cwd() == ours


@pytest.mark.usefixtures("users_state")
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_statistics_are_ours_whatever_device_the_model_sets(device):
    class Sets(nn.Sequential):
        def forward(self, input):  # noqa: A002
            torch.set_default_device(device)
            return super().forward(input)

    batches = [torch.randn(8, 3) for _ in range(3)]
    model = Sets(nn.BatchNorm1d(3))
    recalibrate(model, batches)

    torch.testing.assert_close(model[0].running_mean, torch.cat(batches).mean(dim=0))  # pyright: ignore


class Said(nn.Module):
    """Whose state_dict is what is given."""

    def __init__(self, given: object) -> None:
        super().__init__()
        self.given = given

    def state_dict(self, *_: object, **__: object):  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.given() if callable(self.given) else self.given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"Said\.state_dict\(\) returned a NoneType, expected a mapping from names to tensors"),
        ([1], r"Said\.state_dict\(\) returned a list, expected"),
        ({1: torch.zeros(1)}, r"Said\.state_dict\(\) returned a name of type int, expected"),
        (lambda: 1 / 0, r"Said\.state_dict\(\) failed: ZeroDivisionError"),
    ],
)
@pytest.mark.parametrize("use", [state_dict_of, lambda model: load_checkpoint(model, None)])  # pyright: ignore
def test_a_state_dict_that_is_none_is_said(given, message, use):
    with pytest.raises(UserCodeError, match=message):
        use(Said(given))


class Odd(nn.BatchNorm1d):
    """With a method or a property of its own that fails."""

    def __init__(self, name: str) -> None:
        super().__init__(3)
        self.__class__ = type("Odd", (Odd,), {name: lambda self, *_, **__: 1 / 0})  # pyright: ignore


def test_modules_that_raise_are_said():
    with pytest.raises(UserCodeError, match=r"Odd\.named_modules\(\) failed: ZeroDivisionError"):
        modules_of(Odd("named_modules"))
    model = nn.Linear(1, 1)
    model.named_modules = lambda: [("a", 3)]  # pyright: ignore
    with pytest.raises(UserCodeError, match="something other than pairs"):
        modules_of(model)


@pytest.mark.parametrize("name", ["named_buffers", "named_parameters", "__len__"])
def test_what_comes_out_of_the_user_s_code_unexpectedly_is_no_bug_of_ours(name):
    with pytest.raises(ZeroDivisionError) as raised:
        shortened(Odd(name)) if name == "__len__" else bn_layers(Odd(name))  # pyright: ignore

    found = raised_by_user(raised.value)
    assert found is not None
    assert found.startswith("the user's code failed: ZeroDivisionError: division by zero (at ")
    assert "test_guard.py" in found


def test_what_we_raise_ourselves_is_ours():
    with pytest.raises(TypeError) as raised:
        shortened(3)  # pyright: ignore

    assert raised_by_user(raised.value) is None


@pytest.mark.parametrize(
    "call", [lambda: os._exit(0), lambda: os.execv("/bin/true", ["true"]), lambda: os.execlp("true", "true")]
)
def test_the_program_does_not_end_without_a_word(call):
    with (
        exits_refused(),
        pytest.raises(UserCodeError, match=r"x failed: ExitCalled: os\.(_exit|execve?)\(.*without a message"),
        user_code("x"),
    ):
        call()


def test_a_process_that_is_forked_ends_as_ever():
    before = os._exit
    with exits_refused():
        child = os.fork()
        if child == 0:
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        with pytest.raises(ExitCalled):
            os._exit(3)
    assert os._exit is before


class Failing(Dataset):
    def __init__(self, fail) -> None:
        self.fail = fail

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int):
        return self.fail() if index == 4 else index


def local():
    class LocalError(Exception):
        pass

    raise LocalError("not to be imported")


class TwoArgumentsError(Exception):
    def __init__(self, one, two) -> None:
        super().__init__(one, two)


@pytest.mark.parametrize(
    ("fail", "message", "workers"),
    [
        (lambda: raising(StopIteration(1)), "StopIteration: 1", 0),
        (lambda: raising(OwnBaseError("its own")), "OwnBaseError: its own", 0),
        (lambda: raising(TwoArgumentsError("a", "b")), r"TwoArgumentsError: \('a', 'b'\)", 0),
        (lambda: raising(SystemExit(0)), "SystemExit: 0", 1),
        (local, "LocalError: not to be imported", 1),
    ],
    ids=["StopIteration", "BaseException", "two arguments", "exit in a worker", "local class in a worker"],
)
def test_what_a_dataset_raises_is_heard_of_at_its_batch(fail, message, workers):
    loader = Passes(DataLoader(Failing(fail), batch_size=2, num_workers=workers))

    with pytest.raises(UserCodeError, match=rf"loading batch 2 failed: .*{message}"):
        list(iterate(loader))
    gc.collect()  # the loader's iterator: a worker that is forked later would try to end it


def test_a_model_on_the_meta_device_is_refused(monkeypatch, tmp_path):
    (tmp_path / "onmeta.py").write_text(
        "import torch\ndef net():\n    with torch.device('meta'):\n        return torch.nn.Linear(2, 2)\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UserCodeError, match=r"returned a Linear on the meta device \(weight\).*Build it on the CPU"):
        build_model(f"{tmp_path}/onmeta.py:net", {})


class LazyNet(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.LazyConv1d(4, 3), nn.LazyBatchNorm1d(), nn.Flatten(), nn.LazyLinear(2))


def test_a_lazy_model_is_copied_once_it_has_the_shapes_of_a_file(tmp_path):
    import copy

    plain = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(12, 2)).eval()
    torch.save(plain.state_dict(), tmp_path / "a.pt")
    model, checkpoint, batch = LazyNet(), open_checkpoint(tmp_path / "a.pt"), torch.randn(2, 3, 5)
    materialise(model, checkpoint)
    copied = copy.deepcopy(model).eval()
    copied.load_state_dict(state_dict_for(model, checkpoint))

    torch.testing.assert_close(copied(batch), plain(batch))


@pytest.mark.parametrize(
    ("said", "is_memory"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that workers are out of it.", True),
        ("unable to open shared memory object </torch_1_2_3> in read-write mode: No such file or directory (2)", True),
        ("unable to write to file </torch_11_22_0>: No space left on device (28)", True),
        ("No space left on device: 'cache.npy'", False),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", False),
    ],
)
def test_a_full_or_missing_shared_memory_is_named(said, is_memory):
    with pytest.raises(UserCodeError) as caught, user_code("loading batch 2"):
        raise RuntimeError(said)

    assert str(caught.value).startswith(f"loading batch 2 failed: RuntimeError: {said}")
    assert ("/dev/shm, which is full or missing" in str(caught.value)) == is_memory
