"""The estimator for scikit-learn."""

from lossselect.sklearn.estimator import TaskClassifier

__all__ = ["TaskClassifier"]
