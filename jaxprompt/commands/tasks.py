"""`jaxprompt tasks [NAME]`"""

from jaxprompt.backbone.form import FORMS, form_of

HELP = "list the tasks that come with the package, or print one as a config to copy and edit"


def add_arguments(parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a task, such as glue/sst2 (default: all are listed)")
    parser.add_argument("--form", choices=FORMS, default="chat", help="for what kind of model (default: %(default)s)")
    parser.add_argument("--model", metavar="MODEL", help="a model, whose form is taken (default: none)")


def run(args) -> dict:
    from jaxprompt.config import tasks

    if args.name is None:
        return {
            "tasks": {name: {"kind": tasks.read(name)["kind"], "about": tasks.about(name)} for name in tasks.names()}
        }
    form = args.form if args.model is None else form_of(args.model)
    config = tasks.config_of(args.name, form)
    return {"about": tasks.about(args.name), "config": {"model": args.model or "NAME YOUR MODEL", **config}}


def lines(summary: dict) -> list[str]:
    from jaxprompt.config import dump

    if "tasks" in summary:
        kinds: dict[str, list[str]] = {}
        for name, task in summary["tasks"].items():
            kinds.setdefault(task["kind"], []).append(f"  {name:22} {task['about']}")
        return [line for kind in sorted(kinds) for line in (kind, *kinds[kind])]
    return [f"# {summary['about']}", dump(summary["config"]).rstrip()]
