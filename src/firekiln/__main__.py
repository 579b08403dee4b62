"""`python -m firekiln`."""

from firekiln.cli.main import main

if __name__ == "__main__":
    main()
