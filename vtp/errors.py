"""The one kind of error that is the user's to mend."""


class UserError(Exception):
    """A mistake in the input: one sentence that names the key or file, what was found and what is allowed.

    Stages print the sentence alone, without a traceback, and exit with status 1.
    """
