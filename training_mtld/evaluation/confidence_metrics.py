"""Metrics of a network's confidences and visibilities. NaN errors are left out."""

import numpy as np

NUM_GROUPS = 10  # the least and the most confident tenth are compared


def confidence_ratio(errors: np.ndarray, scores: np.ndarray) -> float:
    """Mean error of the least confident tenth of all landmarks over that of the most confident tenth.

    Each error is divided by the mean error of its landmark, so that a score which only ranks landmarks, such as eyes
    above the jaw, gains nothing. A random score gives 1.

    Args:
        errors: (faces, K), of any unit, NaN where unannotated.
        scores: (faces, K), higher where more confident.
    """
    relative = errors / np.nanmean(errors, axis=0)
    is_known = np.isfinite(relative)
    ranked = relative[is_known][np.argsort(scores[is_known], kind="stable")]
    tenth = max(1, len(ranked) // NUM_GROUPS)
    return float(ranked[:tenth].mean() / ranked[-tenth:].mean())


def likelihood_gain(deviations: np.ndarray, scales: np.ndarray) -> float:
    """Mean log-likelihood of the errors under `scales`, less that under the best constant scale for each landmark.

    The constants are fitted to the same faces, which makes them the best possible constants. A gain above 0 means that
    the scales follow the differences between faces. The unit is nats a landmark.

    Args:
        deviations: (faces, K), |dx| + |dy|, NaN where unannotated.
        scales: (faces, K), of Laplace distributions of x and y, in the unit of `deviations`.
    """
    constants = np.nanmean(deviations, axis=0) / 2
    gains = deviations / constants - deviations / scales - 2 * np.log(scales / constants)
    return float(np.nanmean(gains))


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a positive has a higher score than a negative.

    Args:
        scores: (N,).
        positive: (N,) bool.
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # equal scores share their mean rank
    num_positive = np.count_nonzero(positive)
    num_pairs = num_positive * (len(scores) - num_positive)
    return float((ranks[positive].sum() - num_positive * (num_positive + 1) / 2) / num_pairs)
