"""The command line: a module for each command, its arguments, and its error messages."""

COMMANDS = {
    "train": "train and evaluate a classifier; the same as train.py",
    "explain": "print the plan of a run without training",
    "data": "show rows, columns and labels of a file without training",
    "predict": "predict classes and probabilities for the rows of a new file",
    "evaluate": "compute the metrics and the report of a model on a new labelled file",
    "export": "write a checkpoint's model as ONNX, torch.export or safetensors",
    "compare": "compare runs: settings, metrics with intervals, and tests on common test rows",
    "report": "write the report of a run that ended early",
}
"""Each command, and a description."""
