"""Turns errors into messages for visitors: one line, without a stack trace."""

import functools
import html
import inspect
import logging

import gradio as gr

logger = logging.getLogger(__name__)

SERVER_ERROR = "The server failed to answer this request. Its log has the error."


def as_message(function):
    """Wraps an event's function or generator. Visitors see the text of a ValueError, else SERVER_ERROR."""
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
        logger.error("An event failed", exc_info=error)
    text = " ".join(str(error).split()) if isinstance(error, ValueError) else SERVER_ERROR
    return gr.Error(html.escape(text, quote=False), duration=None, print_exception=False)  # Gradio shows it as HTML
