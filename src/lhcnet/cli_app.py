"""The command that serves a trained model as a page in the browser."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Literal

import typer

from lhcnet.errors import LhcnetError


def add_to(app: typer.Typer) -> None:
    """Add this command to the program `lhcnet`."""
    app.command("app")(page)


def page(
    model: Annotated[str, typer.Argument(help="Model directory, models:/NAME@ALIAS, runs:/ID/PATH, or .onnx file.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to compute.")] = "cpu",
) -> None:
    """Serve a page for predictions on pictures.

    It works without a network and stores no picture. Ctrl-C ends it.
    """
    try:
        from lhcnet.app.server import create_app
    except ModuleNotFoundError as error:
        raise LhcnetError(f"app: {error.name} is missing, expected the extra: pip install 'lhcnet[app]'") from None
    from lhcnet.app.answers import Answers
    from lhcnet.app.card import load_with_card
    from lhcnet.app.parts import installed_parts
    from lhcnet.app.run import listen, serve

    with listen(host, port) as opened:
        predictor, card = load_with_card(model, device)
        parts = installed_parts(predictor)
        if parts.finder is None:
            typer.echo(f"Each picture is taken as one face. {parts.why_no_finder}", err=True)
        application = create_app(Answers(predictor, parts, card), host)
        with suppress(KeyboardInterrupt, SystemExit):  # Ctrl-C is how a page ends
            serve(application, opened, lambda url: typer.echo(f"{url} (Ctrl-C ends it)"))
