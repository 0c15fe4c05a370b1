"""How good a network's confidences and visibilities are. NaN errors are left out."""

import numpy as np

SHARE = 10  # the least and the most confident tenth are compared


def confidence_ratio(errors: np.ndarray, scores: np.ndarray) -> float:
    """Mean error of the least confident tenth of all landmarks over that of the most confident tenth.

    Each error counts relative to its landmark's mean, so that knowing jaws from eyes gains nothing; a score that says
    nothing gives 1.

    Args:
        errors: (faces, K), of any unit, NaN where unannotated.
        scores: (faces, K), higher where more confident.
    """
    relative = errors / np.nanmean(errors, axis=0)
    known = np.isfinite(relative)
    ranked = relative[known][np.argsort(scores[known], kind="stable")]
    tenth = max(1, len(ranked) // SHARE)
    return float(ranked[:tenth].mean() / ranked[-tenth:].mean())


def likelihood_gain(deviations: np.ndarray, scales: np.ndarray) -> float:
    """Mean log-likelihood of the errors under `scales`, less that under the best constant scale for each landmark.

    The constants are fitted to these very faces, so that they are the best that a constant can do. Above 0, the scales
    tell one face from another. Its unit is nats a landmark.

    Args:
        deviations: (faces, K), |dx| + |dy|, NaN where unannotated.
        scales: (faces, K), of Laplace distributions of x and y, in the unit of `deviations`.
    """
    constants = np.nanmean(deviations, axis=0) / 2
    gains = deviations / constants - deviations / scales - 2 * np.log(scales / constants)
    return float(np.nanmean(gains))


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: how often one of the `positive` (N,) bool has a higher score than one of the others.

    Args:
        scores: (N,).
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # equal scores share their mean rank
    number = np.count_nonzero(positive)
    pairs = number * (len(scores) - number)
    return float((ranks[positive].sum() - number * (number + 1) / 2) / pairs)
