"""Binary cross-entropy of each class against the rest, for tasks with exactly one class per row."""

from lossselect.losses.functional._shared import Tensor


def softmax_one_vs_rest(logits: Tensor, target: Tensor) -> Tensor:
    """Return the one-vs-rest BCE: sum_c t_c [-log q_c - sum_{k != c} log(1 - q_k)], q = sigmoid(logits).

    Predictions and probabilities still use softmax. The loss is not the likelihood of these probabilities,
    so calibrate them before you use them. timm's BinaryCrossEntropy is the mean over the
    classes.

    References:
        Wightman et al., ResNet strikes back, 2021, arXiv:2110.00476.
    """
    from torch.nn.functional import logsigmoid

    if not target.is_floating_point():
        index = target.unsqueeze(1)
        # log q_c equals log(1 - q) of the negated logit
        return -logsigmoid(-logits.scatter(1, index, -logits.gather(1, index))).sum(1)
    others = target.sum(1, keepdim=True) - target
    return -(target * logsigmoid(logits) + others * logsigmoid(-logits)).sum(1)


ROWS = {"one_vs_rest": {"softmax": softmax_one_vs_rest}}
