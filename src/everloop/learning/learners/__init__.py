"""The things that train, one file a family. `base` has the contract, `make` finds the one for a kind or an object."""
