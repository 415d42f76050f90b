"""The ``bayesprune`` command, which ``python -m bayesprune`` is too."""

from bayesprune._extras import MissingExtraError, needed_by

__all__ = ["main"]

try:
    with needed_by("the command line"):
        from bayesprune.cli import main
except MissingExtraError as error:
    raise SystemExit(f"bayesprune: {error}") from None

if __name__ == "__main__":
    main()
