"""For tests of teachers from Hugging Face's libraries: no hub, and clips of noise.

Test files name this module in `pytest_plugins` and then use `no_hub`.
PYTEST_DONT_REWRITE: test files also import from it, and it asserts nothing.
"""

# B batch, T frames, H height, W width

import huggingface_hub.constants
import pytest
import torch

from egoctl.pipeline.teachers.protocol import Teacher

CPU = torch.device("cpu")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def clips_of(teacher: Teacher, num_clips: int = 2) -> torch.Tensor:
    """(B, T, H, W, 3): a dark clip, a light one, ..., each of other noise."""
    spec = teacher.spec
    size = (num_clips, spec.num_frames, spec.crop_px, spec.crop_px, 3)
    noise = torch.randint(0, 128, size, generator=torch.Generator().manual_seed(2))
    return (noise + 100 * torch.arange(num_clips).view(-1, 1, 1, 1, 1) % 200).to(torch.uint8)
