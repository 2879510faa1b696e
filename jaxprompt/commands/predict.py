"""`jaxprompt predict RUN --text TEXT`"""

from jaxprompt.commands.arguments import MACHINE_HELP, add_inputs, add_overrides, texts_of

HELP = "answer with a run's prompt"


def add_arguments(parser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="folder of a finished run")
    add_inputs(parser)
    add_overrides(parser, MACHINE_HELP)


def run(args) -> dict:
    from jaxprompt.inference.predict import predict_run

    answers = predict_run(args.run_dir, texts_of(args), overrides=args.overrides)
    for answer in answers:
        confidence = f"{answer['probability']:.3f}\t" if "probability" in answer else ""
        print(f"{answer['prediction']}\t{confidence}{answer['input']}")
    return {"predictions": answers}
