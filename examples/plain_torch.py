"""One training loop for three tasks, with plain torch and without Lightning.

    python examples/plain_torch.py

The 1,797 handwritten digits of scikit-learn are classified by three questions: Is the digit odd? Which digit
is it? Which of three properties does it have? Only `QUESTIONS` differs between the tasks; head, loss,
encoding, metrics and decision follow from it. A quarter of the training labels is missing, which requires no
further code.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import lossselect as ls

PROPERTIES = ("even", "prime", "above 4")
QUESTIONS = {
    "odd?": (ls.Binary(class_names=("even", "odd")), lambda digit: digit % 2),
    "which?": (ls.Multiclass(10), lambda digit: digit),
    "properties?": (
        ls.Multilabel(3, class_names=PROPERTIES),
        lambda digit: torch.stack(
            [digit % 2 == 0, torch.isin(digit, torch.tensor([2, 3, 5, 7])), digit > 4], 1
        ),
    ),
}


def accuracy(task, logits, target):
    """Return the accuracy of the task's predictions, one of several metrics of `make_metrics`."""
    metrics = ls.make_metrics(task)
    metrics.update(task.probabilities(logits), target)
    return metrics.compute()["accuracy"]


def train(task, x, y):
    """Train a net that returns raw logits for 30 epochs, on features x and labels y."""
    target = task.encode(y)
    loss = ls.select_loss(task, "focal", gamma=1.0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, task.num_outputs))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(30):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            loss(net(x[rows]), target[rows]).backward()
            optimizer.step()
    return net.eval()


def main():
    """Train and test each task, and compare it with the best constant prediction."""
    torch.manual_seed(0)
    pixels, digits = load_digits(return_X_y=True)
    x, digit = torch.tensor(pixels / 16).float(), torch.tensor(digits)
    fit, val, test = torch.randperm(len(x)).split([1097, 300, 400])
    for question, (task, labels_of) in QUESTIONS.items():
        y = labels_of(digit).float()
        y[fit[::4]] = torch.nan
        net = train(task, x[fit], y[fit])
        with torch.no_grad():
            fitted = ls.fit_decision(task, net(x[val]), y[val])  # the task with thresholds and a temperature
            logits = net(x[test])
        constant = ls.select_loss(task).first_logits(ls.count_labels(task, y[fit]))
        target = task.encode(y[test])
        print(
            f"{question:12} {task!s:28} accuracy {accuracy(fitted, logits, target):.3f}, "
            f"constant prediction {accuracy(task, constant.expand_as(logits), target):.3f}; "
            f"a {digit[test[0]]} is {fitted.decode(fitted.predict(logits[:1]))[0]}"
        )


if __name__ == "__main__":
    main()
