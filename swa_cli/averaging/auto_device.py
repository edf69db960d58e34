"""``--device auto``: whichever of CPU and CUDA turns out to be faster."""

from collections.abc import Callable, Sequence

from swa_cli.averaging.plan import AveragePlan, TensorPlan

WORTH_TRYING = 16 << 30
"""Bytes to be read from which on CUDA is tried, which takes the better part of a second to start (16 GiB)."""
TRIAL = 1 << 30
"""Bytes that each of the two reads of these, before the faster one is given the rest."""
WARM_UP = 1 << 26
"""Bytes that CUDA reads first, untimed, so that its kernels are loaded."""

TimedAverage = Callable[[str, Sequence[TensorPlan]], float]
"""Averages some tensors on a device; seconds taken."""


def run_on_the_faster(plan: AveragePlan, run: TimedAverage) -> str:
    """Let the CPU and CUDA each average some tensors, and the faster one the rest; which it was, and why.

    Where CUDA is there but fails (another program has its memory), the CPU does it all.
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
    """The tensor after those from ``start`` on that make up so many bytes."""
    done = 0
    for index in range(start, len(plan.tensors)):
        if done >= size:
            return index
        done += plan.bytes_of(plan.tensors[index : index + 1])
    return len(plan.tensors)
