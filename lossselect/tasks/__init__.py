"""Classification tasks, and the properties that follow from them."""
