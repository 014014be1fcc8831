"""Errors of Lightning while it starts a run, converted to errors that the user can fix."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, Trainer

from lossselect.exceptions import CheckpointError, ConfigError, LossSelectError
from lossselect.models.nets import first_sentence


class StageRecorder(Callback):
    """Records whether a checkpoint may be being restored, and whether no step has been taken yet."""

    restores = prepares = False

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self.restores = self.prepares = True

    def on_sanity_check_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.restores = False

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.prepares = False  # from here on steps are taken, by the user's code too

    def on_sanity_check_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.prepares = True

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.restores = self.prepares = False


@contextmanager
def convert_start_errors(trainer: Trainer, resumes: bool) -> Iterator[None]:
    """Convert errors of Lightning and torch before the first step of a fit within the context."""
    stage = StageRecorder()
    trainer.callbacks.append(stage)  # type: ignore[attr-defined]
    try:
        yield
    except (LossSelectError, OSError):
        raise
    except Exception as error:
        hint = "(HYDRA_FULL_ERROR=1 shows the traceback.)"
        if stage.restores and resumes:
            raise CheckpointError(
                "The checkpoint is damaged, or does not belong to this run: Lightning cannot restore it "
                f"({type(error).__name__}: {first_sentence(error)}). {hint}"
            ) from error
        if stage.prepares and type(error) in (ValueError, TypeError):
            raise ConfigError(f"Training cannot start: {str(error).strip()} {hint}") from error
        raise
