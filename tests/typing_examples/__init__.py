"""Scripts of users, which mypy checks with all files in strict mode; they are not run."""
