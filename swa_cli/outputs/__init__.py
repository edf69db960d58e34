"""Files to be written: which there are, where every byte of them goes, in the structure that a trainer loads."""
