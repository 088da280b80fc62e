"""Batches of clips through the teacher: kept busy, checked once, smaller where memory ends.

On a CUDA device a batch is computed while the next one is put together: its frames leave from
pinned memory, its targets are copied back behind it, and nobody waits for it until the next is
on its way. Elsewhere a batch is done when `submit` returns.
"""

# B batch, T frames, H height, W width, 3 channels RGB, N clips, D feature width, C classes

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egoctl.pipeline.devices import is_out_of_memory
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.records import TeacherTargets
from egoctl.pipeline.teachers.protocol import Teacher, network_output

MIN_COSINE = 0.9999
"""Below this, features of a faster mode are not those of plain float32."""
REFERENCE_PIECES = 4
"""Float32 needs twice the memory of bf16: the reference is computed in so many pieces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How the first batch in the run's mode compares with plain float32, not compiled."""

    cosine: float
    """The smallest of any clip's two features."""
    num_clips: int
    num_same_class: int | None
    """Clips whose largest logit is of the same class; None of a teacher without classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Flight:
    """Clips that were given to the device."""

    feature_BD: Tensor
    """In the host's memory, once landed; so are the logits."""
    logits_BC: Tensor
    num_clips: int
    """The first so many of the batch; the others are padding."""
    landed: torch.cuda.Event | None
    """None: it has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Batch:
    flights: Sequence[_Flight]
    deliver: Callable[[TeacherTargets], None]
    then: list[Callable[[], None]] = field(default_factory=list)


class TeacherBatches:
    """Submit batches, then finish; targets are delivered in the order of the batches."""

    def __init__(
        self,
        teacher: Teacher,
        *,
        device: torch.device,
        batch_size: int,
        precision: str,
        is_compiled: bool = False,
        is_forced: bool = False,
        num_in_flight: int | None = None,
    ) -> None:
        """precision is fp32 or bf16; is_forced: targets are taken however they compare."""
        self.batch_size = batch_size
        """Halved where the device has no memory for it."""
        self.num_halvings = 0
        self.agreement: Agreement | None = None
        """None: plain float32, or no batch so far."""
        self.copy_s = 0.0
        """Seconds of putting batches together and moving them to the device."""
        self.teacher_s = 0.0
        """Seconds of launching the network and of waiting for it."""
        self.teacher = teacher
        self._network: Teacher = _Compiled(teacher) if is_compiled else teacher
        self._device = device
        self._precision = precision
        self._is_compiled = is_compiled
        self._autocast_dtype = torch.bfloat16 if precision == "bf16" else None
        self._must_compare = is_compiled or precision != "fp32"
        self._is_forced = is_forced
        if num_in_flight is None:
            num_in_flight = 1 if device.type == "cuda" else 0
        self._num_in_flight = num_in_flight
        self._pending: deque[_Batch] = deque()
        spec = teacher.spec
        shape = (batch_size, spec.num_frames, spec.crop_px, spec.crop_px, 3)
        # One for each batch in flight and one to fill: what is still being copied is not touched.
        self._buffers = deque(
            torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
            for _ in range(num_in_flight + 1)
        )

    def submit(
        self, clips: Sequence[NDArray[np.uint8]], deliver: Callable[[TeacherTargets], None]
    ) -> None:
        """Compute targets of up to batch_size clips of frames (T, H, W, 3); deliver gets them.

        Raises:
            EgoctlError: if not even one clip fits into the device's memory; if the run's mode
                gives other features than plain float32 and was not forced.
        """
        start = time.perf_counter()
        frames_BTHW3 = self._buffers[0][: len(clips)]
        self._buffers.rotate(-1)
        np.stack(clips, out=frames_BTHW3.numpy())
        self.copy_s += time.perf_counter() - start
        batch = _Batch(flights=self._launched(frames_BTHW3), deliver=deliver)
        if self._must_compare and self.agreement is None:
            self._compare(frames_BTHW3, self._landed(batch.flights))
        self._pending.append(batch)
        while len(self._pending) > self._num_in_flight:
            self._land_first()

    def then(self, call: Callable[[], None]) -> None:
        """Call this once all that was submitted so far is delivered: at once, or in a while."""
        if self._pending:
            self._pending[-1].then.append(call)
        else:
            call()

    def finish(self) -> None:
        """Wait for everything that was submitted, and deliver it."""
        while self._pending:
            self._land_first()

    def _land_first(self) -> None:
        batch = self._pending.popleft()
        batch.deliver(self._landed(batch.flights))
        for call in batch.then:
            call()

    def _landed(self, flights: Sequence[_Flight]) -> TeacherTargets:
        start = time.perf_counter()
        for flight in flights:
            if flight.landed is not None:
                flight.landed.synchronize()
        found = TeacherTargets(
            feature_ND=np.concatenate([f.feature_BD.numpy()[: f.num_clips] for f in flights]),
            logits_NC=np.concatenate([f.logits_BC.numpy()[: f.num_clips] for f in flights]),
        )
        self.teacher_s += time.perf_counter() - start
        return found

    def _launched(self, frames_BTHW3: Tensor) -> list[_Flight]:
        """The batch given to the device, in pieces where it does not fit in one."""
        flights: list[_Flight] = []
        num_launched = 0
        while num_launched < len(frames_BTHW3):
            piece = frames_BTHW3[num_launched : num_launched + self.batch_size]
            try:
                flights.append(self._launch(piece))
            except RuntimeError as error:
                if _is_of_the_compiler(error):
                    reason = str(error).strip().splitlines()[0]
                    raise EgoctlError(
                        f"torch.compile cannot compile teacher {self.teacher.spec.name} here "
                        f"({reason}). Leave out --compile."
                    ) from error
                if not is_out_of_memory(error):
                    raise
            else:
                num_launched += len(piece)
                continue
            # Behind the except block: the error held on to what had been computed.
            self._halve()
        return flights

    def _launch(self, frames_BTHW3: Tensor) -> _Flight:
        num_clips = len(frames_BTHW3)
        if self._is_compiled and num_clips < self.batch_size:
            # Each new size would be compiled anew, and perhaps into other sums.
            rest = frames_BTHW3[-1:].expand(self.batch_size - num_clips, -1, -1, -1, -1)
            frames_BTHW3 = torch.cat([frames_BTHW3, rest])
        start = time.perf_counter()
        frames_BTHW3 = frames_BTHW3.to(self._device, non_blocking=True)
        copied = time.perf_counter()
        self.copy_s += copied - start
        try:
            feature_BD, logits_BC = network_output(
                self._network, frames_BTHW3, autocast_dtype=self._autocast_dtype
            )
            return self._on_the_way_back(feature_BD, logits_BC, num_clips)
        finally:
            self.teacher_s += time.perf_counter() - copied

    def _on_the_way_back(self, feature_BD: Tensor, logits_BC: Tensor, num_clips: int) -> _Flight:
        if self._device.type != "cuda":
            return _Flight(
                feature_BD=feature_BD.cpu(),
                logits_BC=logits_BC.cpu(),
                num_clips=num_clips,
                landed=None,
            )
        # Ordered right behind the network: ordered when they are wanted, the copies would come
        # behind the next batch.
        landed = torch.cuda.Event()  # type: ignore[no-untyped-call]
        flight = _Flight(
            feature_BD=torch.empty(feature_BD.shape, pin_memory=True),
            logits_BC=torch.empty(logits_BC.shape, pin_memory=True),
            num_clips=num_clips,
            landed=landed,
        )
        flight.feature_BD.copy_(feature_BD, non_blocking=True)
        flight.logits_BC.copy_(logits_BC, non_blocking=True)
        landed.record(torch.cuda.current_stream(self._device))
        return flight

    def _halve(self) -> None:
        if self.batch_size == 1:
            raise EgoctlError(
                f"one clip of teacher {self.teacher.spec.name} does not fit into the memory of "
                f"{self._device}. Free that memory, or pass --device cpu; every finished part is "
                "stored."
            )
        self.batch_size //= 2
        self.num_halvings += 1
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _compare(self, frames_BTHW3: Tensor, found: TeacherTargets) -> None:
        """Compute the batch once more, in float32 and not compiled, and refuse what differs."""
        start = time.perf_counter()
        num_clips = len(frames_BTHW3)
        size = -(-num_clips // REFERENCE_PIECES)
        outputs = [
            network_output(self.teacher, frames_BTHW3[first : first + size].to(self._device))
            for first in range(0, num_clips, size)
        ]
        wanted = TeacherTargets(
            feature_ND=torch.cat([feature_BD for feature_BD, _ in outputs]).cpu().numpy(),
            logits_NC=torch.cat([logits_BC for _, logits_BC in outputs]).cpu().numpy(),
        )
        self.teacher_s += time.perf_counter() - start
        compared = agreement(found, wanted)
        if compared.num_clips == 0:
            return  # nothing to judge by; the next batch is
        self.agreement = compared
        if compared.cosine < MIN_COSINE and not self._is_forced:
            mode = f"{self._precision}, compiled" if self._is_compiled else self._precision
            raise EgoctlError(
                f"in {mode}, features of teacher {self.teacher.spec.name} agree with plain "
                f"float32 only to a cosine of {compared.cosine:.6f}; {MIN_COSINE} is wanted. "
                "Start a new store with --precision fp32 and without --compile, or pass "
                "--force-precision."
            )


def agreement(found: TeacherTargets, wanted: TeacherTargets) -> Agreement:
    """How found, in a faster mode, compares with wanted, in plain float32.

    Clips without finite features in float32 do not judge the mode and are left out. Where the
    mode alone gives no finite numbers, the cosine is -1.
    """
    is_judged_N = np.isfinite(wanted.feature_ND).all(axis=1)
    a_ND = found.feature_ND[is_judged_N].astype(np.float64)
    b_ND = wanted.feature_ND[is_judged_N].astype(np.float64)
    norms_N = np.linalg.norm(a_ND, axis=1) * np.linalg.norm(b_ND, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine_N = np.divide((a_ND * b_ND).sum(axis=1), norms_N)
    # Without a direction only the same feature agrees.
    cosine_N = np.where(norms_N == 0, np.where((a_ND == b_ND).all(axis=1), 1.0, -1.0), cosine_N)
    cosine_N = np.nan_to_num(cosine_N, nan=-1.0)
    num_same_class = None
    if wanted.logits_NC.shape[1]:
        is_same_N = found.logits_NC.argmax(axis=1) == wanted.logits_NC.argmax(axis=1)
        num_same_class = int(is_same_N[is_judged_N].sum())
    return Agreement(
        cosine=float(cosine_N.min(initial=1.0)),
        num_clips=int(is_judged_N.sum()),
        num_same_class=num_same_class,
    )


def _is_of_the_compiler(error: RuntimeError) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


class _Compiled:
    """A teacher whose network torch.compile has made faster, for one size of batch."""

    def __init__(self, teacher: Teacher) -> None:
        self.spec = teacher.spec
        self.weights = teacher.weights
        self.feature = torch.compile(teacher.feature, dynamic=False)
        self.logits = teacher.logits
