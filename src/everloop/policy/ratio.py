"""Whether the arms get the shares of the traffic that they should: a sample ratio mismatch says that the split itself is broken.

A broken split (requests that one version loses, a router that disagrees, a retry that lands elsewhere) makes any comparison of
the arms worthless, so it is tested first and strictly (A. Fabijan et al., "Diagnosing sample ratio mismatch in online controlled
experiments", KDD 2019). The test may be looked at after every request: a beta-binomial e-value against the intended share
(M. Lindon and A. Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022), a mixture of four that
expect small and large deviations.

Assumed: what is counted falls to the challenger independently with the intended share. Requests without a unit do. Requests of few
faithful users do not: who sends a tenth of the traffic moves the ratio by a tenth. Count each unit once, or leave them out.
"""

from __future__ import annotations

import math

import msgspec

from everloop.policy.intervals import log_beta
from everloop.policy.wording import evidence, percent

LEVEL = 0.001
_WEIGHTS = (10.0, 100.0, 1_000.0, 10_000.0)
"""How many requests each prior is worth: the larger, the closer to the intended share it expects the true one."""


class RatioVerdict(msgspec.Struct, frozen=True):
    broken: bool
    e_value: float
    needed: float
    share: float
    """Intended for the challenger."""
    observed: float | None
    text: str
    """One sentence for a person."""


def ratio_broken(champion: int, challenger: int, share: float, level: float = LEVEL) -> RatioVerdict:
    """From the requests that each has settled, cumulated while `share` was the challenger's. A split that is as intended is called
    broken with probability at most `level`, over all looks."""
    n = champion + challenger
    needed = 1 / level
    if n == 0:
        return RatioVerdict(False, 1.0, needed, share, None, "the split: no requests yet")
    log_e = log_ratio(champion, challenger, share)
    observed = challenger / n
    broken = log_e >= math.log(needed)
    judged = "the split is broken, so nothing that compares the versions holds" if broken else "as intended"
    text = (
        f"the split: the challenger got {percent(observed)} of {n:,} requests, {percent(share)} were intended; "
        f"evidence {evidence(log_e)} of {needed:,.0f} needed: {judged}"
    )
    return RatioVerdict(broken, math.exp(min(log_e, 700.0)), needed, share, observed, text)


def log_ratio(champion: int, challenger: int, share: float) -> float:
    """Log e-value against `share`."""
    if not 0 < share < 1:
        return math.inf if (challenger if share <= 0 else champion) else 0.0
    null = challenger * math.log(share) + champion * math.log1p(-share)
    logs = [
        log_beta(challenger + w * share, champion + w * (1 - share)) - log_beta(w * share, w * (1 - share)) - null
        for w in _WEIGHTS
    ]
    top = max(logs)
    return top + math.log(math.fsum(math.exp(x - top) for x in logs) / len(logs))
