"""The copy of batches and of their encoded targets to a GPU."""

from typing import Any

import torch
from lightning.pytorch import LightningModule

from lossselect.compat.lightning import PrivateHooks, overrides_hook
from lossselect.data.batches import Block
from lossselect.labels.targets import Encoded
from lossselect.training.classifier import Classifier

_TRANSFER = "transfer_batch_to_device"


class TransferHooks(PrivateHooks, Classifier, LightningModule):
    """Encodes the target of a batch before the batch is copied to a GPU; see `TargetTransfer`."""

    def _on_batch_of_loader(self, batch: Any) -> None:
        self._transfer.clear()
        if self.trainer.predicting:
            return
        if isinstance(batch, Encoded):
            self._transfer.start(batch.target)  # a hook may return a plain tuple
        elif self.trainer.strategy.root_device.type != "cpu":
            try:
                target = self.unpack_batch(batch)[1]
            except Exception:  # an override may pass another batch to `step`, which raises the error
                return
            self._transfer.start(target, self._encode)

    def _on_batch_transferred(self, batch: Any, device: Any) -> None:
        if self._transfer.pending:
            target = batch.target if isinstance(batch, Encoded) else self.unpack_batch(batch)[1]
            # in inference mode, torch does not count changes in place that a hook may make
            hooks = ["on_after_batch_transfer"] * torch.is_inference_mode_enabled()
            self._transfer.arrive(target, device, lambda: overrides_hook(self, _TRANSFER, *hooks))

    def _transfer_block(self, block: Block) -> list[Any]:
        """Return the batches of a block, encoded and on the device."""

        def move(batch: Any) -> Any:
            moved = self._to_device(batch)
            # `_transfer` has only the target of the last batch
            return moved if isinstance(moved, Encoded) else self._encode_batch(moved)

        return list(map(move, block) if self._chunked else block.moved(move))
