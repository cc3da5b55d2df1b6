"""VTP: compress vision transformers by pruning dimensions and factorising what is left."""
