"""From text to options, with the source of each."""
