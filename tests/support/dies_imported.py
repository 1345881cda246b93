"""A module that kills the process importing it, like one built for another CPU."""

import signal

signal.raise_signal(signal.SIGILL)
