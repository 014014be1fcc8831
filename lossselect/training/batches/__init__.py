"""From the batch of a loader to encoded targets on the device."""
