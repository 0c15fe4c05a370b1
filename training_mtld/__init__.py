"""The parts of training and evaluating MTLD, which `train_accelerate.py` puts together."""
