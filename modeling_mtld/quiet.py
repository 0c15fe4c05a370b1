"""Keeps from people who type a command what the libraries tell of their own work."""

from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging


def quiet_libraries():
    """From now on, transformers and the Hub's client tell of errors alone, and show no progress bars."""
    transformers_logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # and those of the Hub's client
