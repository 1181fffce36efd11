"""What goes wrong by what a user asked for: said in one line, without a traceback."""


class UserError(Exception):
    """A wrong argument, file or model; the command ends with status 2 and this line."""
