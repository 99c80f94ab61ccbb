"""`python -m densenet_suite`."""

from densenet_suite.cli import main

if __name__ == "__main__":
    main()
