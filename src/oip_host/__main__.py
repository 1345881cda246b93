"""The command line as `python -m oip_host`."""

from oip_host.cli import main

if __name__ == "__main__":
    main()
