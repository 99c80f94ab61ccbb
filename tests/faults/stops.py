"""Ways to stop a run at a stated place."""

import os
import signal

import lightning as L

Place = tuple[str, int, int]


class SignalAt(L.Callback):
    """Sends this process a signal in a batch of a stage, "train" or "val", of an epoch."""

    def __init__(self, place: Place, number: int = signal.SIGTERM):
        self.place = place
        self.number = number

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._send("train", trainer, batch_idx)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self._send("val", trainer, batch_idx)

    def _send(self, stage: str, trainer: L.Trainer, batch_idx: int) -> None:
        if self.place == (stage, trainer.current_epoch, batch_idx):
            os.kill(os.getpid(), self.number)
