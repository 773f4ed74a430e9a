"""Run the command line as `python -m ochatctl`."""

from ochatctl.cli.app import main

if __name__ == "__main__":
    main()
