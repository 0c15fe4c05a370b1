"""MTLD: facial landmark detection with a multi-scale transformer. These files travel with a checkpoint to the Hub."""

__version__ = "0.1.0"
