"""kill -9 at random moments, over four processes that fill one store together."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from egoctl.tests.soak.writers import Crew, difference

NUM_WRITERS = 4
MAX_ROUNDS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class KillCounts:
    """What was done, and what was wrong afterwards."""

    kills: int
    rounds: int
    """Stores that were filled: each from nothing to its end."""
    wrong: tuple[str, ...]


def kill_writers(
    crew: Crew,
    base: str,
    expected: str,
    *,
    num_kills: int,
    seed: int,
    say: Callable[[str], object],
) -> KillCounts:
    """Fill stores base0, base1 ... until num_kills writers were killed; compare each with expected.

    Four writers work at any time; whoever was killed is replaced at once.
    """
    chosen = random.Random(seed)
    kills, wrong = 0, []
    for round_number in range(MAX_ROUNDS):
        name = f"{base}{round_number}"
        writers = [crew.start(name) for _ in range(NUM_WRITERS)]
        while kills < num_kills:
            time.sleep(chosen.uniform(0.05, 1.0))
            alive = [writer for writer in writers if writer.is_alive()]
            if len(alive) < NUM_WRITERS:
                break  # one came to its end: the store is full, or about to be
            victim = chosen.choice(alive)
            victim.kill()
            victim.join()
            if victim.exitcode == -signal.SIGKILL:
                kills += 1
            writers = [writer for writer in writers if writer is not victim] + [crew.start(name)]
        for writer in writers:
            writer.join()
        crew.finish(name)
        found = difference(name, expected)
        say(f"round {round_number}: {kills} kills, {found or 'equal'}")
        if found is not None:
            wrong.append(f"{name}: {found}")
        if kills >= num_kills:
            return KillCounts(kills=kills, rounds=round_number + 1, wrong=tuple(wrong))
    raise RuntimeError(f"only {kills} kills in {MAX_ROUNDS} rounds")
