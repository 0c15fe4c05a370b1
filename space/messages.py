"""Errors as messages that a visitor reads: one line, and never a stack trace."""

import functools
import html
import inspect
import logging

import gradio as gr

logger = logging.getLogger(__name__)

SERVER_ERROR = "Something went wrong on the server. Its log says what."


def as_message(function):
    """Wraps an event's function or generator: a ValueError is shown, of anything else that it happened."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            try:
                yield from function(*args, **kwargs)
            except Exception as error:
                raise _message(error) from None
    else:

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except Exception as error:
                raise _message(error) from None

    return wrapper


def _message(error: Exception) -> gr.Error:
    if isinstance(error, gr.Error):
        return error
    if not isinstance(error, ValueError):
        logger.error("While answering a visitor", exc_info=error)
    text = " ".join(str(error).split()) if isinstance(error, ValueError) else SERVER_ERROR
    return gr.Error(html.escape(text, quote=False), duration=None, print_exception=False)  # Gradio shows it as HTML
