"""Scripts of users, which type checkers must understand; they are not run."""
