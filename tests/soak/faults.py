"""Eight writers on a bucket whose answers get lost, refused and delayed; one of them freezes."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from egoctl.tests.soak.writers import GIVE_UP_S, Crew, difference
from egoctl.tests.worlds.s3_server import FaultRates, FaultyProxy, S3Server, s3_environment

NUM_WRITERS = 8
RATES = FaultRates(refuse=0.04, lose=0.03, drop=0.01, delay=0.08, max_delay_s=0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultCounts:
    """What the proxy did, and what was wrong afterwards."""

    answers: Counter[str]
    frozen_s: float
    wrong: str | None


def freeze_one_of_eight(
    crew: Crew, server: S3Server, base: str, expected: str, *, say: Callable[[str], object]
) -> FaultCounts:
    """Fill one store with eight processes; one sleeps past its lease in the middle of a part."""
    with FaultyProxy(server.url, RATES, seed=1) as proxy:
        crew = replace(crew, environment=s3_environment(proxy.url))
        writers = [crew.start(base) for _ in range(NUM_WRITERS)]
        time.sleep(4.0)
        frozen = next(writer for writer in writers if writer.is_alive())
        assert frozen.pid is not None
        os.kill(frozen.pid, signal.SIGSTOP)
        frozen_s = crew.lease_s * 2 + 2
        say(f"one of {NUM_WRITERS} writers is frozen for {frozen_s:.0f} s")
        time.sleep(frozen_s)
        os.kill(frozen.pid, signal.SIGCONT)
        deadline = time.monotonic() + GIVE_UP_S
        for writer in writers:
            writer.join(max(0.0, deadline - time.monotonic()))
        crew.finish(base)
        answers = Counter(proxy.counts)
    return FaultCounts(answers=answers, frozen_s=frozen_s, wrong=difference(base, expected))
