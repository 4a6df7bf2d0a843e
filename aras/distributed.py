"""One training in many processes: who this one is, and the sums and decisions that all of them share.

torchrun starts the processes and tells each its place by the environment. A process started by itself has nobody to
ask: its sums are its own and it is the first. Ranks compute on shares of one batch, so what they sum is what a single
process would have summed.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from aras.errors import UserError
from aras.ranks import Rank, rank_of_process, restarts

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

FAILURES = "failures"  # the key in torchrun's store that counts the processes that failed


_here = Rank()


def rank() -> int:
    """Return which of the processes that train together this is, from 0."""
    return _here.number


def world_size() -> int:
    """Return how many processes train together."""
    return _here.count


def is_first() -> bool:
    """Return whether this is the process that writes, logs and speaks."""
    return _here.leads


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, while the body runs; a process alone joins nobody.

    Gloo carries what is on the CPU, NCCL what is on a GPU. Of many processes that fail, for one reason or because
    another has left, one raises its error; the others end with code 1 and no word.
    """
    global _here
    place = rank_of_process()
    if place.count == 1:
        yield
        return
    import torch
    import torch.distributed as dist
    import torch.distributed.nn  # first imported later, it would keep the group, whose threads can abort its end

    store, _, _ = next(iter(dist.rendezvous("env://")))
    store = dist.PrefixStore(f"restart {restarts()}", store)  # torchrun keeps what those before have written in it
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=place.number, world_size=place.count)
    _here = place
    try:
        yield
        add_up(torch.zeros(1))  # none leaves while another still needs its answer
        dist.destroy_process_group()
    except (UserError, OSError, RuntimeError) as error:
        failed_before = store.add(FAILURES, 1) > 1
        if failed_before:
            raise SystemExit(1) from None
        if is_lost_connection(error):
            raise UserError(
                "another process of this training was lost; see what ended it, then run the same command again"
            ) from None
        raise
    finally:
        _here = Rank()


def is_lost_connection(error: Exception) -> bool:
    """Return whether `error` says that another process has left."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "by peer" in str(error)


def from_first(make: Callable[[], T]) -> T:
    """Return to every process what `make` returns in the first, the only one that calls it."""
    if _here.count == 1:
        return make()
    import torch.distributed as dist

    box: list[Any] = [make() if is_first() else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def sum_over_ranks(tensor: "torch.Tensor") -> "torch.Tensor":
    """Return the sum of every rank's `tensor`, through which gradients flow back, summed over the ranks as well."""
    if _here.count == 1:
        return tensor
    from aras.shared_sum import SharedSum

    return SharedSum.apply(tensor)


def add_up(*tensors: "torch.Tensor") -> None:
    """Make each of `tensors` the sum of every rank's, in place and without gradient."""
    if _here.count > 1:
        import torch.distributed as dist

        for tensor in tensors:
            dist.all_reduce(tensor)


def average_gradients(parameters: Iterable["torch.Tensor"]) -> None:
    """Make each rank's gradients those of the whole batch.

    The loss is one number that every rank computes from shared sums, and the way back through such a sum adds the
    gradients of all ranks' copies of it. A rank so holds the share of its images `world_size()` times over, and the
    mean over ranks is the gradient of the loss.
    """
    if _here.count == 1:
        return
    import torch

    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    add_up(flat)
    parts = flat.div_(_here.count).split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(
        gradients, [part.view(gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]
    )


def gathered(array: np.ndarray) -> list[np.ndarray]:
    """Return to the first rank every rank's `array`, in their order, all of one shape; to the others nothing."""
    if _here.count == 1:
        return [array]
    import torch
    import torch.distributed as dist

    own = torch.from_numpy(array)
    parts = [torch.empty_like(own) for _ in range(_here.count)] if is_first() else None
    dist.gather(own, parts, dst=0)
    return [part.numpy() for part in parts or []]


def merged(values: dict[str, str]) -> dict[str, str]:
    """Return every rank's `values` in one dict, to each of them."""
    if _here.count == 1:
        return values
    import torch.distributed as dist

    found: list[dict[str, str]] = [{}] * _here.count
    dist.all_gather_object(found, values)
    return {name: value for part in found for name, value in part.items()}
