"""The linear correction of the logits of new classes (Wu et al. 2019, arXiv 1905.13260)."""

import torch
from torch.nn import functional as F


def fit_bias(logits: torch.Tensor, labels: torch.Tensor, first: int) -> tuple[float, float]:
    """Fits q_k = alpha z_k + beta for new classes k, q_k = z_k for old ones (eq. 4 and 5).

    Args:
        logits: z of all classes seen, [n, P].
        labels: Class ids, int64, [n].
        first: First new class.

    Returns:
        alpha and beta of the largest posterior probability, a convex problem.
    """
    logits = logits.double()
    bias = torch.tensor([1.0, 0.0], dtype=torch.float64, device=logits.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        new = bias[0] * logits[:, first:] + bias[1]
        loss = F.cross_entropy(torch.cat((logits[:, :first], new), 1), labels)
        loss = loss + ((bias[0] - 1).square() + bias[1].square()) / (2 * len(labels))
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    alpha, beta = bias.tolist()
    return alpha, beta
