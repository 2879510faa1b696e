"""`python -m jaxprompt` is the `jaxprompt` command."""

from jaxprompt.commands import command

if __name__ == "__main__":
    command()
