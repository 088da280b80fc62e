"""MotionFormer's attentions: along trajectories, joint, and divided into time and space.

Source: Patrick et al. 2021, "Keeping Your Eye on the Ball: Trajectory Attention in Video
Transformers", arXiv:2106.05392. Parameter names are those of the published checkpoints.
"""

# B batch, N tokens (1 class token, then S patches), S = F frames x P patches of each
# C width, h heads, d = C / h, k = h or C, G tokens of one frame that ask

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Values = Literal["original", "corrected"]
Form = Literal["plain", "shortcut"]


def _heads(x_BNC: Tensor, num_heads: int) -> Tensor:
    """(B, h, N, d)."""
    return torch.unflatten(x_BNC, -1, (num_heads, -1)).transpose(1, 2)


def _merged(x_BhNd: Tensor) -> Tensor:
    """(B, N, C)."""
    return x_BhNd.transpose(1, 2).flatten(2)


class JointAttention(nn.Module):
    """Every token attends to every token."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BNC: Tensor, num_frames: int) -> Tensor:
        q, k, v = (_heads(part, self.num_heads) for part in self.qkv(x_BNC).chunk(3, dim=-1))
        out: Tensor = self.proj(_merged(F.scaled_dot_product_attention(q, k, v)))
        return out


class DividedAttention(nn.Module):
    """A patch attends to the class token and to its own place in all frames, or its own frame.

    The class token attends to everything.
    """

    def __init__(self, width: int, num_heads: int, *, over: Literal["time", "space"]) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.over = over
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BNC: Tensor, num_frames: int) -> Tensor:
        num_clips = len(x_BNC)
        q, k, v = (_heads(part, self.num_heads) for part in self.qkv(x_BNC).chunk(3, dim=-1))
        of_class = F.scaled_dot_product_attention(q[:, :, :1], k, v)
        q, k_own, v_own = (self._grouped(part[:, :, 1:], num_frames) for part in (q, k, v))
        num_groups = len(q) // num_clips
        k_class, v_class = (part[:, :, :1].repeat_interleave(num_groups, dim=0) for part in (k, v))
        out = F.scaled_dot_product_attention(
            q, torch.cat([k_class, k_own], dim=2), torch.cat([v_class, v_own], dim=2)
        )
        of_patches = self._ungrouped(out, num_clips)
        merged: Tensor = self.proj(_merged(torch.cat([of_class, of_patches], dim=2)))
        return merged

    def _grouped(self, x_BhSd: Tensor, num_frames: int) -> Tensor:
        """(B x groups, h, tokens of a group, d)."""
        x = torch.unflatten(x_BhSd, 2, (num_frames, -1))
        order = (0, 3, 1, 2, 4) if self.over == "time" else (0, 2, 1, 3, 4)
        return x.permute(order).flatten(0, 1)

    def _ungrouped(self, x: Tensor, num_clips: int) -> Tensor:
        x = torch.unflatten(x, 0, (num_clips, -1))
        order = (0, 2, 3, 1, 4) if self.over == "time" else (0, 2, 1, 3, 4)
        return x.permute(order).flatten(2, 3)


class TrajectoryAttention(nn.Module):
    """Each patch looks for itself in every frame, then along what it found (eqs. 3 to 6).

    values="original" is what the authors' released code and checkpoints do: the second step
    averages the trajectory tokens as they are, and the value half of proj_kv has no effect.
    "corrected" projects them first, as the paper writes. form="shortcut" gives the same outputs
    from fewer operations and less memory; see `_along_shortcut`.
    """

    def __init__(self, width: int, num_heads: int, *, values: Values, form: Form) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.values = values
        self.form = form
        self.scale = (width // num_heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj_q = nn.Linear(width, width)
        self.proj_kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BNC: Tensor, num_frames: int) -> Tensor:
        q, k, v = (_heads(part, self.num_heads) for part in self.qkv(x_BNC).chunk(3, dim=-1))
        if self.form == "plain":
            of_class = self._attended(q[:, :, :1], k, v)
            of_patches = self._plain(q[:, :, 1:], k[:, :, 1:], v[:, :, 1:], num_frames)
        else:
            of_class = F.scaled_dot_product_attention(q[:, :, :1], k, v)
            of_patches = self._shortcut(q[:, :, 1:], k[:, :, 1:], v[:, :, 1:], num_frames)
        out: Tensor = self.proj(torch.cat([_merged(of_class), of_patches], dim=1))
        return out

    def of_class(self, x_BNC: Tensor) -> Tensor:
        """(B, 1, C): forward's first token alone, which needs no trajectories."""
        width = x_BNC.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        q = _heads(F.linear(x_BNC[:, :1], weight[:width], bias[:width]), self.num_heads)
        kv = F.linear(x_BNC, weight[width:], bias[width:])
        k, v = (_heads(part, self.num_heads) for part in kv.chunk(2, dim=-1))
        out: Tensor = self.proj(_merged(F.scaled_dot_product_attention(q, k, v)))
        return out

    def _attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention over the last axis but one, in single steps."""
        weights = (self.scale * q @ k.transpose(-2, -1)).softmax(dim=-1)
        return torch.einsum("...qk,...kd->...qd", weights, v)

    def _plain(self, q_BhSd: Tensor, k_BhSd: Tensor, v_BhSd: Tensor, num_frames: int) -> Tensor:
        """(B, S, C), step by step as published; what its cost of 369.5 GMAC is counted on."""
        num_heads = self.num_heads
        # All logits at once; a softmax for every frame that is looked at. Neither is held longer
        # than it is needed: at 224 px each takes 118 MB a clip.
        logits_BhSS = self.scale * q_BhSd @ k_BhSd.transpose(-2, -1)
        weights_BhSFP = torch.unflatten(logits_BhSS, -1, (num_frames, -1)).softmax(dim=-1)
        del logits_BhSS
        v_BhFPd = torch.unflatten(v_BhSd, 2, (num_frames, -1))
        y_BSFC = torch.einsum("bhsfp,bhfpd->bsfhd", weights_BhSFP, v_BhFPd).flatten(3)
        del weights_BhSFP
        num_patches = q_BhSd.shape[2] // num_frames
        frame_of_S = torch.arange(num_frames, device=y_BSFC.device).repeat_interleave(num_patches)
        own_BSC = y_BSFC[:, torch.arange(len(frame_of_S), device=y_BSFC.device), frame_of_S]
        q2_BShd = self.scale * torch.unflatten(self.proj_q(own_BSC), -1, (num_heads, -1))
        k2_BSFC, v2_BSFC = self.proj_kv(y_BSFC).chunk(2, dim=-1)
        k2_BSFhd = torch.unflatten(k2_BSFC, -1, (num_heads, -1))
        along_BShF = torch.einsum("bshd,bsfhd->bshf", q2_BShd, k2_BSFhd).softmax(dim=-1)
        values = y_BSFC if self.values == "original" else v2_BSFC
        found = torch.einsum(
            "bshf,bsfhd->bshd", along_BShF, torch.unflatten(values, -1, (num_heads, -1))
        )
        return found.flatten(2)

    def _shortcut(self, q_BhSd: Tensor, k_BhSd: Tensor, v_BhSd: Tensor, num_frames: int) -> Tensor:
        """(B, S, C): `_plain`, a frame's patches after the other.

        So trajectory tokens of one frame exist at a time, and space weights, where the device has
        a fused kernel, not at all.
        """
        num_heads = self.num_heads
        q_BhFPd = torch.unflatten(q_BhSd, 2, (num_frames, -1))
        # Frames beside heads: to every frame that is looked at, its own softmax.
        k, v = (
            torch.unflatten(part, 2, (num_frames, -1)).flatten(1, 2) for part in (k_BhSd, v_BhSd)
        )
        found = []
        for frame in range(num_frames):
            q = q_BhFPd[:, :, frame].repeat_interleave(num_frames, dim=1)
            y = F.scaled_dot_product_attention(q, k, v)
            y_BhFGd = torch.unflatten(y, 1, (num_heads, num_frames))
            y_BGFC = y_BhFGd.permute(0, 3, 2, 1, 4).flatten(3)
            found.append(self._along_shortcut(y_BGFC, own_BGC=y_BGFC[:, :, frame]))
        return torch.cat(found, dim=1)

    def _along_shortcut(self, y_BGFC: Tensor, *, own_BGC: Tensor) -> Tensor:
        """(B, G, C): the second step, with no key or value made of any trajectory token.

        A head's logits are (W_q own + b_q) . (W_k y + b_k): the key weights are moved onto the
        query, (W_k^T q2) . y, where b_k adds the same to all frames and cancels in the softmax.
        Projected values are summed before they are projected, as weights sum to one.
        """
        num_heads, width = self.num_heads, y_BGFC.shape[-1]
        q2_BGhd = self.scale * torch.unflatten(self.proj_q(own_BGC), -1, (num_heads, -1))
        weight_khd, weight_vhd = self.proj_kv.weight.view(2, num_heads, -1, width)
        query_hGC = q2_BGhd.flatten(0, 1).transpose(0, 1) @ weight_khd
        query_BGCh = torch.unflatten(query_hGC.permute(1, 2, 0), 0, q2_BGhd.shape[:2])
        along_BGFh = (y_BGFC @ query_BGCh).softmax(dim=2)
        if self.values == "original":
            y_BGFhd = torch.unflatten(y_BGFC, -1, (num_heads, -1))
            return (along_BGFh.unsqueeze(-1) * y_BGFhd).sum(dim=2).flatten(2)
        mean_BGhC = along_BGFh.transpose(2, 3) @ y_BGFC
        mean_hXC = mean_BGhC.flatten(0, 1).transpose(0, 1)
        found_hXd = mean_hXC @ weight_vhd.transpose(1, 2)
        found_XC = found_hXd.transpose(0, 1).flatten(1)
        return torch.unflatten(found_XC, 0, y_BGFC.shape[:2]) + self.proj_kv.bias[width:]
