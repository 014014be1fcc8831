"""The scikit-learn estimator."""

from lossselect.sklearn.estimator import TaskClassifier

__all__ = ["TaskClassifier"]
