"""Share one request's time among its tiers: pure arithmetic on a deadline."""

from __future__ import annotations

__all__ = ["SHARE_OF_REST", "models_deadline_s", "silence_limit_s"]

RESERVE_S = 0.2
"""What is kept of the deadline for the tier that cannot fail, and for ending, in seconds."""

RESERVED_SHARE = 0.05
"""The most that is kept of a short deadline."""

SHARE_OF_REST = 0.5
"""While other models could still be asked, a silent one may use up to this share of what is left.

With `--deadline 3` and a silent first tier, the second still has 1.5 s. With the default deadline
of 120 s the tier's own timeout is always the shorter one.
"""


def silence_limit_s(*, timeout_s: float, left_s: float, others_follow: bool) -> float:
    """Return how long to wait for a first token.

    Args:
        timeout_s: the tier's own limit.
        left_s: seconds to the request's deadline; not negative.
        others_follow: whether another language model could still be asked afterwards.

    Returns:
        Seconds, at most `left_s`.
    """
    share = left_s * SHARE_OF_REST if others_follow else left_s
    return max(0.0, min(timeout_s, share))


def models_deadline_s(deadline_s: float) -> float:
    """Return how much of a request's time its models have together, in seconds.

    The rest lets the last tier answer, and the process end, before the deadline is over.
    """
    return deadline_s - min(RESERVE_S, deadline_s * RESERVED_SHARE)
