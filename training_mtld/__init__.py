"""Modules for training and evaluating MTLD, used by `train_accelerate.py`."""
