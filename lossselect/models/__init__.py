"""The named nets, and the last layer of any net."""
