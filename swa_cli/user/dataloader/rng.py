"""Random states that a loader draws from: torch's, numpy's and Python's global ones, and its own generators."""

import random
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, TypeVar, cast

import numpy as np
import torch

T = TypeVar("T")


def seed_all(seed: int) -> None:
    """Seed torch, numpy and Python, and CUDA if it is initialised."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # the user's transforms draw from the global state
    random.seed(seed)


def seed_of_batch(seed: int, place: int) -> int:
    """Return a 63-bit seed for the batch at position ``place`` of a stream."""
    return int.from_bytes(blake2b(f"{seed} {place}".encode(), digest_size=8).digest()) >> 1


def drawn_apart(iterable: Iterable[T], *, seed: int | None = None) -> Generator[T]:
    """Iterate over ``iterable`` with global random states of its own.

    They are in force only while ``iterable`` computes its next entry; in between, and after any end, the caller's are
    restored. So the caller's random numbers do not depend on the iteration, nor the other way round.

    Args:
        seed: initial seed of the states; without one they start as a copy of the caller's.
    """
    apart = _Apart(seed)
    with apart.in_force():
        iterator = iter(iterable)
    while True:
        with apart.in_force():
            try:
                value = next(iterator)
            except StopIteration:
                return
        yield value


class OwnGenerators:
    """The random generators that some objects hold as attributes, with the states in which they were first found."""

    def __init__(self, owners: Iterable[object]) -> None:
        self._owners = tuple(owners)
        self._restores: list[Callable[[], None]] | None = None

    def rewind(self, seed: int | None) -> None:
        """Restore their first states, or seed them all if a seed is given."""
        generators = self._found()
        if seed is not None:
            for generator in generators:
                _seed(generator, seed)
        elif self._restores is None:
            self._restores = [_restorer(generator) for generator in generators]
        else:
            for restore in self._restores:
                restore()

    def _found(self) -> list[object]:
        held = [value for owner in self._owners for value in getattr(owner, "__dict__", {}).values()]
        kinds = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
        once = {id(value): value for value in held if isinstance(value, kinds)}
        return [value for value in once.values() if value is not torch.default_generator]


class _Apart:
    """Global random states that are swapped with the caller's."""

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._put_in: Callable[[], None] | None = None

    @contextmanager
    def in_force(self) -> Generator[None]:
        put_back = _global_states()
        try:
            if self._put_in is not None:
                self._put_in()
            elif self._seed is not None:
                seed_all(self._seed)
            yield
            self._put_in = _global_states()
        finally:
            put_back()


def _global_states() -> Callable[[], None]:
    """Return a function that restores the present global states."""
    in_torch, in_python = torch.default_generator.get_state(), random.getstate()
    in_numpy = cast("Any", np.random.get_state())  # noqa: NPY002
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def put_back() -> None:
        torch.default_generator.set_state(in_torch)
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
        np.random.set_state(in_numpy)  # noqa: NPY002
        random.setstate(in_python)

    return put_back


def _restorer(generator: Any) -> Callable[[], None]:
    if isinstance(generator, np.random.Generator):
        bits, state = cast("Any", generator.bit_generator), generator.bit_generator.state
        return lambda: setattr(bits, "state", state)
    if isinstance(generator, random.Random):
        state = generator.getstate()
        return lambda: generator.setstate(state)
    state = generator.get_state()  # torch's, and numpy's older ones
    return lambda: generator.set_state(state)


def _seed(generator: Any, seed: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.Generator):
        bits = cast("Any", generator.bit_generator)
        bits.state = type(bits)(seed).state
    else:
        generator.seed(seed if isinstance(generator, random.Random) else seed % 2**32)
