"""Backup sets: make, sign, encrypt, check, restore and rehearse them."""
