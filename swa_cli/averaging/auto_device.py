"""The device ``auto``: the faster of CPU and CUDA, found by a trial."""

from collections.abc import Callable, Sequence

from swa_cli.averaging.plan import AveragePlan, TensorPlan

WORTH_TRYING = 16 << 30
"""Size in bytes from which CUDA is tried (16 GiB); starting it takes most of a second."""
TRIAL = 1 << 30
"""Bytes that each device reads in the trial, before the faster one gets the rest."""
WARM_UP = 1 << 26
"""Bytes that CUDA reads first, untimed, so that its kernels are loaded."""

TimedAverage = Callable[[str, Sequence[TensorPlan]], float]
"""Averages some tensors on a device and returns the seconds it took."""


def run_on_the_faster(plan: AveragePlan, run: TimedAverage) -> str:
    """Let the CPU and CUDA each average some tensors, and the faster one the rest; return which, and why.

    If CUDA fails (another program holds its memory, say), the CPU does all of it.
    """
    if plan.bytes_to_read < WORTH_TRYING or not _sees_cuda():
        run("cpu", plan.tensors)
        return "cpu"
    on_cpu = _up_to(plan, 0, TRIAL)
    warm = _up_to(plan, on_cpu, WARM_UP)
    on_cuda = _up_to(plan, warm, TRIAL)
    if on_cuda == warm:  # too few tensors to share out
        run("cpu", plan.tensors)
        return "cpu"
    rates = {"cpu": plan.bytes_of(plan.tensors[:on_cpu]) / run("cpu", plan.tensors[:on_cpu])}
    try:
        run("cuda:0", plan.tensors[on_cpu:warm])
        rates["cuda:0"] = plan.bytes_of(plan.tensors[warm:on_cuda]) / run("cuda:0", plan.tensors[warm:on_cuda])
        faster = max(rates, key=lambda device: rates[device])
        run(faster, plan.tensors[on_cuda:])
    except RuntimeError as error:  # torch's own; our errors are none
        run("cpu", plan.tensors[on_cpu:])
        reason = str(error).partition("\n")[0]
        return f"cpu (cuda:0 failed: {reason})"
    measured = ", ".join(f"{device} {rate / 1e9:.1f} GB/s" for device, rate in rates.items())
    return f"{faster} (measured: {measured})"


def _sees_cuda() -> bool:
    import torch  # noqa: PLC0415  # the CPU does without it

    return torch.cuda.is_available()


def _up_to(plan: AveragePlan, start: int, size: int) -> int:
    """Return the index after the tensors from ``start`` on that make up so many bytes."""
    done = 0
    for index in range(start, len(plan.tensors)):
        if done >= size:
            return index
        done += plan.bytes_of(plan.tensors[index : index + 1])
    return len(plan.tensors)
