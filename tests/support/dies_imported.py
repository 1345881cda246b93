"""A module that ends the process that imports it, as one for another CPU does."""

import signal

signal.raise_signal(signal.SIGILL)
