"""A pause of garbage collection during imports, in which collections take long and find nothing."""

import gc


def pause_collections() -> None:
    """Collect no garbage until `resume_collections`."""
    gc.disable()


def resume_collections() -> None:
    """Collect garbage again, but never among the modules that are imported by now, as they stay."""
    if not gc.get_freeze_count():
        gc.freeze()
    gc.enable()
