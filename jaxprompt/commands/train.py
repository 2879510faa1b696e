"""`jaxprompt train CONFIG.yaml [KEY=VALUE ...]`"""

from jaxprompt import config as configs
from jaxprompt.commands.arguments import add_overrides, add_processes

HELP = "learn a prompt; on an existing run folder, resume it"


def add_arguments(parser) -> None:
    parser.epilog = "keys of a config:\n" + configs.help_text()
    parser.add_argument("config", metavar="CONFIG.yaml", help="the experiment")
    add_overrides(parser)
    add_processes(parser)


def run(args) -> dict:
    from jaxprompt.reports.terminal import Reporter
    from jaxprompt.training.loop import train

    result = train(configs.load_config(args.config, args.overrides), reporter=Reporter())
    return {"run_dir": str(result.run_dir), **result.metrics}


def lines(summary: dict) -> list[str]:
    return []  # the reporter has said all
