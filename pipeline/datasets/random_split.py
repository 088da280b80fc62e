"""Divides segments at random into train and test, the same way on every machine.

Chance comes from a digest of seed and id, so it depends neither on the order of a file nor on the
version of a random generator, and a segment that is added leaves the draw of the others alone.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping

from blake3 import blake3

TRAIN_SHARE = 0.7
"""EgoDistill's (arXiv:2301.02217, supplement)."""


def split_per_class(class_of: Mapping[str, str], *, seed: int) -> dict[str, str]:
    """'train' or 'test' of every segment id: of each class 70 % train, rounded.

    From two segments on, both sides have one.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for segment_id, name in class_of.items():
        members[name].append(segment_id)
    split: dict[str, str] = {}
    for ids in members.values():
        ids.sort(key=lambda segment_id: _draw(seed, segment_id))
        num_train = round(TRAIN_SHARE * len(ids))
        split |= {one: "train" if k < num_train else "test" for k, one in enumerate(ids)}
    return split


def split_by_group(group_of: Mapping[str, str], *, seed: int) -> dict[str, str]:
    """'train' or 'test' of every segment id; a group, such as a video, is never divided.

    Groups are drawn one by one; a group goes to train if 70 % come nearer by it. At least one
    group of several stays for test.
    """
    sizes = Counter(group_of.values())
    limit = TRAIN_SHARE * sum(sizes.values())
    train: set[str] = set()
    num_train = 0
    for group in sorted(sizes, key=lambda name: _draw(seed, name)):
        is_last = len(train) == len(sizes) - 1 > 0
        if abs(num_train + sizes[group] - limit) <= abs(num_train - limit) and not is_last:
            train.add(group)
            num_train += sizes[group]
    return {one: "train" if group in train else "test" for one, group in group_of.items()}


def _draw(seed: int, name: str) -> bytes:
    return blake3(f"{seed} {name}".encode()).digest()
